"""`cmrm judge` and `cmrm judges`: add judges to a finished run, and list the kinds of judges."""

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
from cmrm.untrusted.printable import show
from flows.commands.store_place import DEFAULT_STORE, StorePlace
from flows.terminal.safe_text import show_safely

if TYPE_CHECKING:
    from dataclasses import Field

    from tasks.judge.loaded import JudgeUse

FILES = (".yaml", ".yml", ".json")
MOST_BYTES = 2**20


def judge(
    run: str,
    /,
    *,
    judge: Annotated[list[str], Parameter(negative="")],
    store: StorePlace = DEFAULT_STORE,
    server: str | None = None,
    workers: Annotated[str, Parameter(env_var="CMRM_WORKERS")] = "auto",
) -> None:
    """Judge the answers of a finished run with more judges.

    The result is a new run with the same answers. No question is answered again.

    Parameters
    ----------
    run
        Run id, or `latest` for the newest finished run.
    judge
        A kind of judge (`cmrm judges` lists them), a kind with options such as llama-guard:device=cuda,name=guard,
        or a YAML file with one judge or a list of judges, as in a spec. Repeatable.
    store
        The store of the run: a folder or an fsspec URL.
    server
        API URL of a Prefect server. Default: PREFECT_API_URL, else an embedded server.
    workers
        Where judges that load a model run; see `cmrm run --help`.
    """
    from flows.commands.judge_again import judge_again
    from flows.commands.result_text import print_result

    added = [one for text in judge for one in read_judges(text)]
    result = judge_again(run, added, store=store, server=server, workers=workers)
    print_result(Console(), result)


def judges() -> None:
    """List the kinds of judges and their options.

    Judges of installed packages are listed too.
    """
    from cmrm.judges import JUDGES, find_judge, list_judges
    from tasks.core.options import list_options

    console = Console()
    for kind in list_judges():
        try:
            summary = (getdoc(find_judge(kind)) or "").partition("\n\n")[0]
            options = [_describe_option(field) for field in list_options(JUDGES, kind)]
        except UserError as error:
            # A broken plug-in package must not hide the other judges.
            summary, options = str(error), []
        console.print(Text(show_safely(kind), style="bold"))
        for text in (" ".join(summary.split()), f"Options: {', '.join(options)}" if options else ""):
            if text:
                console.print(Padding(Text(show_safely(text)), (0, 0, 0, 2)))


def read_judges(text: str) -> list[JudgeUse]:
    """Parse a `--judge` argument: a kind, a kind with options, or a file; raises `UserError`."""
    from flows.spec.judge_fields import read_judge_list
    from flows.spec.secrets import find_secret
    from flows.spec.yaml_reader import parse_yaml

    path = Path(text)
    if path.suffix in FILES:
        return read_judge_list(_read_file(path), folder=path.resolve().parent, where=text)
    kind, _, options = text.partition(":")
    given: dict[str, str] = {}
    # A comma inside a value, such as a list, is not followed by `name=`.
    for option in filter(None, re.split(r",(?=\s*\w+=)", options)):
        name, equals, value = option.partition("=")
        if not equals:
            raise UserError(
                f"--judge {text}: {option!r} has no value; write kind:option=value,option=value, or name a YAML file."
            )
        if name.strip() in {"kind", *given}:
            raise UserError(f"--judge {kind}: {name.strip()!r} is given twice; give it once.")
        given[name.strip()] = value
    # Before any value is parsed: a parse error would print the secret.
    if found := find_secret(given):
        raise UserError(f"--judge {kind}: {found}.")
    read = {name: parse_yaml(value, where=f"--judge {kind}: {name}") for name, value in given.items()}
    return read_judge_list({"kind": kind, **read}, folder=Path.cwd(), where=f"--judge {kind}")


def _read_file(path: Path) -> Any:
    from flows.spec.text_files import read_text
    from flows.spec.yaml_reader import parse_yaml

    return parse_yaml(read_text(path, most=MOST_BYTES), where=show(path))


def _describe_option(field: Field[Any]) -> str:
    if field.default is MISSING and field.default_factory is MISSING:
        return f"{field.name} (must be given)"
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return field.name if default in (None, "") else f"{field.name}={default}"
