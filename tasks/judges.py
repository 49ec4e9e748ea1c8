"""Which judge a job uses, and the one copy of it that a process keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from cmrm.judges import Judge
from tasks.judge_options import build_judge, check_options, fill_options, read_options
from tasks.models import choose_device, load_once

if TYPE_CHECKING:
    from cmrm.judges.judge import Field

# A run has a handful; each may keep a connection open.
MOST_KEPT = 32


@dataclass(frozen=True, kw_only=True)
class JudgeUse:
    """A judge as a spec has it: its kind, what tables call it, and the options that were given, as JSON types."""

    kind: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def place(self) -> Literal["processor", "devices"]:
        """Where it judges: on the devices that hold models, if it holds one."""
        return _keep(self).place

    @property
    def reads(self) -> frozenset[Field]:
        """The fields of an answer that decide its verdicts."""
        return _keep(self).reads

    @property
    def device(self) -> str:
        """The device that it asks for."""
        return str(getattr(_keep(self), "device", None) or "auto")

    def to_json(self) -> dict[str, Any]:
        """For the record of a run."""
        return {"kind": self.kind, "name": self.name, "options": dict(self.options)}

    def describe(self) -> dict[str, Any]:
        """For a report: what it is called, its kind, its model and revision, and what that costs; None where none."""
        options = fill_options(self.kind, self.options)
        told = {name: options.get(name) for name in ("model", "revision", "price")}
        return {"name": self.name, "kind": self.kind, **told}


def read_judge(kind: str, options: Mapping[str, Any]) -> JudgeUse:
    """Check a kind and its options; raises as `check_options` does."""
    checked = check_options(kind, options)
    return JudgeUse(kind=kind, name=build_judge(kind, checked).name, options=checked)


def resolve_judge(use: JudgeUse) -> JudgeUse:
    """The same judge with its models' revisions pinned; raises `UserError` where one is not to be had."""
    return replace(use, options=read_options(build_judge(use.kind, use.options).resolve()))


def check_judge(use: JudgeUse) -> None:
    """Raise `UserError` where the judge lacks what it needs to judge, such as a key."""
    _keep(use).check()


def describe_spec(use: JudgeUse) -> Mapping[str, Any]:
    """All that determines the judge's verdicts, as JSON types."""
    return _keep(use).spec()


def load_judge(use: JudgeUse) -> Judge:
    """Make the judge, or return the copy that this process has made before; one with a model lets go of any other."""
    # The copy that is kept for good is asked what it is, and never for a verdict if it holds a model.
    return load_once(use, lambda: _place(use)) if use.place == "devices" else _keep(use)


@lru_cache(maxsize=MOST_KEPT)
def _keep(use: JudgeUse) -> Judge:
    return build_judge(use.kind, use.options)


def _place(use: JudgeUse) -> Judge:
    """The judge on the device that this process has for itself, where it has one."""
    judge = build_judge(use.kind, use.options)
    device = getattr(judge, "device", None)
    return judge if device is None else replace(judge, device=choose_device(device))  # type: ignore[call-arg]
