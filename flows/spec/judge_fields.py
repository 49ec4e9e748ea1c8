"""Judges in a spec: the name of a kind, or a mapping of kind and options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, TypeAdapter, ValidationError

from cmrm.errors import UserError
from cmrm.untrusted.printable import show_value
from cmrm.untrusted.regular_file import is_folder
from flows.spec.errors import explain_mistakes
from flows.spec.home import expand_home
from flows.spec.secrets import find_secret
from tasks.judge.loaded import JudgeUse, read_judge


def read_judge_field(given: Any) -> JudgeUse:
    """Parse one judge of a spec; raises `ValueError`, or a `ValidationError` that names the option."""
    if isinstance(given, JudgeUse):
        return given
    if isinstance(given, str):
        given = {"kind": given}
    kind = given.get("kind") if isinstance(given, Mapping) else None
    if not isinstance(kind, str):
        raise ValueError(  # noqa: TRY004 - pydantic turns it into a validation error
            "write a judge as its kind, such as refusal, or as a mapping with a kind and its options; "
            "cmrm judges lists both"
        )
    return read_judge(kind, {str(name): value for name, value in given.items() if name != "kind"})


def write_judge_field(judge: JudgeUse) -> Any:
    """Serialize one judge for a spec; the inverse of `read_judge_field`."""
    return {"kind": judge.kind, **judge.options} if judge.options else judge.kind


JudgeField = Annotated[
    JudgeUse, PlainValidator(read_judge_field), PlainSerializer(write_judge_field, return_type=Any)
]

_JUDGES = TypeAdapter(list[JudgeField])


def refuse_shared_names(judges: Sequence[JudgeUse]) -> None:
    """Raise `ValueError` for two judges with the same name, whose verdicts tables could not tell apart."""
    counts = Counter(judge.name for judge in judges)
    for name, count in counts.items():
        if count > 1:
            raise ValueError(f"{show_value(name)} is given more than once; give each judge a unique name")


def start_judge_at(folder: Path, judge: JudgeUse) -> JudgeUse:
    """Resolve a judge's model folder relative to the spec's folder."""
    model = judge.options.get("model")
    if not isinstance(model, str):
        return judge
    local = folder / expand_home(model, field="judges.model")
    return replace(judge, options={**judge.options, "model": str(local)}) if is_folder(local) else judge


def read_judge_list(given: Any, *, folder: Path, where: str) -> list[JudgeUse]:
    """Parse one judge or a list; model folders are relative to `folder`. Raises `UserError`."""
    if found := find_secret(given if isinstance(given, list) else [given], "judges"):
        raise UserError(f"{where}: {found}.")
    try:
        judges = _JUDGES.validate_python(given if isinstance(given, list) else [given])
    except ValidationError as error:
        lines = explain_mistakes(error, list[JudgeUse])
        raise UserError("\n".join(f"{where}: judges.{line}" for line in lines)) from None
    return [start_judge_at(folder, judge) for judge in judges]
