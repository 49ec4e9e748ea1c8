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
    from collections.abc import Sequence
    from dataclasses import Field

    from flows.spec.imported_arms import Arms, ImportedArmSpec
    from tasks.judge.loaded import JudgeUse

FILES = (".yaml", ".yml", ".json")
MOST_BYTES = 2**20


def judge(
    run: str,
    /,
    *,
    judge: Annotated[list[str] | None, Parameter(negative="")] = None,
    answers: Annotated[list[str] | None, Parameter(negative="")] = None,
    store: StorePlace = DEFAULT_STORE,
    server: str | None = None,
    workers: Annotated[str, Parameter(env_var="CMRM_WORKERS")] = "auto",
) -> None:
    """Judge the answers of a finished run with more judges, or other systems' answers beside them.

    The result is a new run with the same answers. No question is answered again. Give --judge, --answers, or both.

    Parameters
    ----------
    run
        Run id, or `latest` for the newest finished run.
    judge
        A kind of judge (`cmrm judges` lists them), a kind with options such as llama-guard:device=cuda,name=guard,
        or a YAML file with one judge or a list of judges, as in a spec. Repeatable.
    answers
        Answers that another system gave, as NAME=FILE: an Inspect log, or JSONL, CSV or Parquet with columns id and
        answer. Or a YAML file with arms, as in a spec. Repeatable.
    store
        The store of the run: a folder or an fsspec URL.
    server
        API URL of a Prefect server. Default: PREFECT_API_URL, else an embedded server.
    workers
        Where judges that load a model run; see `cmrm run --help`.
    """
    from flows.commands.judge_again import judge_again
    from flows.commands.result_text import print_result

    if not judge and not answers:
        raise UserError(
            "give a judge to add (--judge refusal), answers of another system (--answers NAME=FILE), or both."
        )
    added = [one for text in judge or () for one in read_judges(text)]
    arms = read_answers(answers or ())
    result = judge_again(run, added, arms=arms, store=store, server=server, workers=workers)
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


def read_answers(texts: Sequence[str]) -> Arms:
    """Parse `--answers` arguments: NAME=FILE, or a file with arms as in a spec; raises `UserError`."""
    from flows.spec.imported_arms import read_arms

    found: dict[str, ImportedArmSpec] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        path = Path(text)
        if path.suffix in FILES and not equals:
            arms = read_arms(_read_file(path), folder=path.resolve().parent, where=show(text))
        elif name and file:
            arms = read_arms({name: {"answers": file}}, folder=Path.cwd(), where="--answers")
        else:
            raise UserError(
                f"--answers {show(text)}: write NAME=FILE, or name a YAML file with arms as in a spec."
            )
        if twice := sorted(found.keys() & arms.keys()):
            raise UserError(f"--answers: {show(twice[0])} is given twice; give each a unique name.")
        found |= arms
    return found


def _read_file(path: Path) -> Any:
    from flows.spec.text_files import read_text
    from flows.spec.yaml_reader import parse_yaml

    return parse_yaml(read_text(path, most=MOST_BYTES), where=show(path))


def _describe_option(field: Field[Any]) -> str:
    if field.default is MISSING and field.default_factory is MISSING:
        return f"{field.name} (must be given)"
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return field.name if default in (None, "") else f"{field.name}={default}"
