"""`cmrm judge` and `cmrm judges`: more judges for a finished run, and the kinds of judges that there are."""

from __future__ import annotations

import re
from dataclasses import MISSING
from inspect import getdoc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from cmrm.errors import UserError
from flows.store_commands import DEFAULT_STORE
from flows.terminal import show_safely

if TYPE_CHECKING:
    from dataclasses import Field

    from tasks.judges import JudgeUse

FILES = (".yaml", ".yml", ".json")


def judge(
    run: str,
    /,
    *,
    judge: Annotated[list[str], Parameter(negative="")],
    store: Annotated[str, Parameter(env_var="CMRM_STORE")] = DEFAULT_STORE,
    server: str | None = None,
    workers: Annotated[str, Parameter(env_var="CMRM_WORKERS")] = "auto",
) -> None:
    """Add judges to a finished run: a new run with the same answers, and no model asked again.

    Parameters
    ----------
    run
        The run's id, or `latest` for the newest finished one.
    judge
        A kind of judge (`cmrm judges` lists them), a kind with options such as llama-guard:device=cuda,name=guard, or
        a YAML file that holds one judge or a list, as a spec has them. May be given several times.
    store
        The store of the run: a folder or an fsspec URL.
    server
        The API URL of a Prefect server; without it PREFECT_API_URL or an embedded one.
    workers
        Who does the jobs of judges that hold a model, as for `cmrm run`.
    """
    from flows.judge_again import judge_again
    from flows.result_text import print_result

    added = [one for text in judge for one in read_judges(text)]
    result = judge_again(run, added, store=store, server=server, workers=workers)
    print_result(Console(), result)


def judges() -> None:
    """List the kinds of judges, cmrm's own and those of installed packages, with their options."""
    from cmrm.judges import find_judge, list_judges
    from tasks.judge_options import list_options

    console = Console()
    for kind in list_judges():
        try:
            told = (getdoc(find_judge(kind)) or "").partition("\n\n")[0]
            options = [_describe_option(field) for field in list_options(kind)]
        except UserError as error:
            # A package that is broken hides no other judge.
            told, options = str(error), []
        console.print(Text(show_safely(kind), style="bold"))
        for text in (" ".join(told.split()), f"Options: {', '.join(options)}" if options else ""):
            if text:
                console.print(Padding(Text(show_safely(text)), (0, 0, 0, 2)))


def read_judges(text: str) -> list[JudgeUse]:
    """Read what `--judge` was given: a kind, a kind with options, or a file; raises `UserError`."""
    from flows.judge_fields import read_judge_list

    path = Path(text)
    if path.suffix in FILES:
        return read_judge_list(_read_file(path), folder=path.resolve().parent, where=text)
    kind, _, options = text.partition(":")
    given: dict[str, Any] = {"kind": kind}
    # A comma inside a value, such as a list's, is followed by no name.
    for part in filter(None, re.split(r",(?=\s*\w+=)", options)):
        name, equals, value = part.partition("=")
        if not equals:
            raise UserError(
                f"--judge {text}: {part!r} gives no value; write kind:option=value,option=value, or name a YAML file."
            )
        if name.strip() in given:
            raise UserError(f"--judge {text}: {name.strip()!r} is given twice; give it once.")
        given[name.strip()] = _read_yaml(value, where=f"--judge {text}")
    return read_judge_list(given, folder=Path.cwd(), where=f"--judge {text}")


def _read_file(path: Path) -> Any:
    try:
        return _read_yaml(path.read_text(encoding="utf-8"), where=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--judge {path}: cannot be read ({error}); correct the path.") from None


def _read_yaml(text: str, *, where: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: is not YAML: {' '.join(str(error).split())}") from None


def _describe_option(field: Field[Any]) -> str:
    if field.default is MISSING and field.default_factory is MISSING:
        return f"{field.name} (must be given)"
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return field.name if default in (None, "") else f"{field.name}={default}"
