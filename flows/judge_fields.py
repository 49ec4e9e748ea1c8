"""Judges in a spec: a kind's name, or a mapping of its kind and options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, PlainSerializer, PlainValidator, TypeAdapter, ValidationError

from cmrm.errors import UserError
from flows.mistakes import explain_mistake
from tasks.judges import JudgeUse, read_judge


def read_judge_field(given: Any) -> JudgeUse:
    """Read one judge as a spec has it; raises `ValueError`, or a `ValidationError` that names the option."""
    if isinstance(given, JudgeUse):
        return given
    if isinstance(given, str):
        given = {"kind": given}
    kind = given.get("kind") if isinstance(given, Mapping) else None
    if not isinstance(kind, str):
        raise ValueError(  # noqa: TRY004 - pydantic turns this one into a spec's mistake
            "write a judge as its kind, such as refusal, or as a mapping with a kind and its options; "
            "cmrm judges lists both"
        )
    return read_judge(kind, {str(name): value for name, value in given.items() if name != "kind"})


def write_judge_field(judge: JudgeUse) -> Any:
    """Write one judge as a spec has it; `read_judge_field` makes the same judge of it."""
    return {"kind": judge.kind, **judge.options} if judge.options else judge.kind


JudgeField = Annotated[
    JudgeUse, PlainValidator(read_judge_field), PlainSerializer(write_judge_field, return_type=Any)
]

_JUDGES = TypeAdapter(list[JudgeField])


def refuse_shared_names(judges: Sequence[JudgeUse]) -> None:
    """Raise `ValueError` where two judges are called the same: tables could not tell their verdicts apart."""
    names = [judge.name for judge in judges]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} stands there more than once; give each judge a name of its own")


def start_judge_at(folder: Path, judge: JudgeUse) -> JudgeUse:
    """The judge with a model that is a local folder looked for from the spec's own."""
    model = judge.options.get("model")
    if not isinstance(model, str) or not (folder / model).is_dir():
        return judge
    return replace(judge, options={**judge.options, "model": str(folder / model)})


def read_judge_list(given: Any, *, folder: Path, where: str) -> list[JudgeUse]:
    """Read one judge or a list of them, a model's folder looked for from `folder`; raises `UserError`."""
    try:
        judges = _JUDGES.validate_python(given if isinstance(given, list) else [given])
    except ValidationError as error:
        lines = [explain_mistake(problem, BaseModel) for problem in error.errors()]
        raise UserError("\n".join(f"{where}: judges.{line}" for line in lines)) from None
    return [start_judge_at(folder, judge) for judge in judges]
