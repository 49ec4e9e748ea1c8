"""Which judge a job uses, and the one loaded copy that a process caches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from cmrm.judges import JUDGES, Judge
from tasks.core.models import choose_device, load_once
from tasks.core.options import build_plugin, check_options, fill_options, read_options

if TYPE_CHECKING:
    from cmrm.judges.judge import Field, Subject

# A run has a handful; each may keep a connection open.
MOST_KEPT = 32


@dataclass(frozen=True, kw_only=True)
class JudgeUse:
    """A judge as configured in a spec: its kind, its name in tables, and the given options, as JSON types."""

    kind: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def place(self) -> Literal["processor", "devices"]:
        """Where it runs: on the devices that hold models, if it has a local model."""
        return _keep(self).place

    @property
    def reads(self) -> frozenset[Field]:
        """The fields of an answer that determine its verdicts."""
        return _keep(self).reads

    @property
    def subjects(self) -> frozenset[Subject]:
        """What it judges: answers, traces, questions."""
        return _keep(self).subjects

    @property
    def device(self) -> str:
        """The device that it requests."""
        return str(getattr(_keep(self), "device", None) or "auto")

    def to_json(self) -> dict[str, Any]:
        """As JSON types, for the record of a run."""
        return {"kind": self.kind, "name": self.name, "options": dict(self.options)}

    def describe(self) -> dict[str, Any]:
        """For a report: its name, kind, model, revision and price, each None where it has none."""
        options = fill_options(JUDGES, self.kind, self.options)
        shown = {name: options.get(name) for name in ("model", "revision", "price")}
        return {"name": self.name, "kind": self.kind, **shown}


def read_judge(kind: str, options: Mapping[str, Any]) -> JudgeUse:
    """Check a kind and its options; raises as `check_options` does."""
    checked = check_options(JUDGES, kind, options)
    return JudgeUse(kind=kind, name=build_plugin(JUDGES, kind, checked).name, options=checked)


def resolve_judge(use: JudgeUse) -> JudgeUse:
    """Pin the revisions of a judge's models; raises `UserError` for one that cannot be resolved."""
    return replace(use, options=read_options(JUDGES, build_plugin(JUDGES, use.kind, use.options).resolve()))


def check_judge(use: JudgeUse) -> None:
    """Raise `UserError` if the judge lacks a requirement, such as an API key."""
    _keep(use).check()


def describe_spec(use: JudgeUse) -> Mapping[str, Any]:
    """The key content of a judge: all that determines its verdicts, as JSON types."""
    return _keep(use).spec()


def load_judge(use: JudgeUse) -> Judge:
    """Make the judge, or return this process's cached copy; loading one with a model frees any other model."""
    # The copy cached forever is only asked for its settings if it has a model, and never for a verdict.
    return load_once(use, lambda: place_judge(use)) if use.place == "devices" else _keep(use)


@lru_cache(maxsize=MOST_KEPT)
def _keep(use: JudgeUse) -> Judge:
    return build_plugin(JUDGES, use.kind, use.options)


def place_judge(use: JudgeUse) -> Judge:
    """Make the judge on the device assigned to this process, if any, whatever else is loaded."""
    judge = build_plugin(JUDGES, use.kind, use.options)
    device = getattr(judge, "device", None)
    return judge if device is None else replace(judge, device=choose_device(device))  # type: ignore[call-arg]
