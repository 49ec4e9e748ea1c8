"""An arm that answers: a model, and what a run, a spec or a file of Δ does to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cmrm.prompts.conditions import Condition
from cmrm.prompts.meaningless_images import MeaninglessImage
from tasks.core.models import ModelUse
from tasks.states.steering import DefenceUse, FileSteering, SingleUse, Steering, StepUse, list_leaves

# The name of the arm without an intervention.
PLAIN_ARM = "plain"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What interventions of a spec are made of: the store of what was measured, and the meaningless images."""

    store: str
    meaningless: Mapping[Condition, MeaninglessImage] = field(hash=False)


@dataclass(frozen=True, kw_only=True)
class AnsweringArm:
    """A model with its system line, and what changes its prompts, states or logits; None for plain answers.

    `scene` is None where nothing measured is needed. `max_new_tokens` is the limit where a question names none.
    `shifts` holds the SHA-256 of each Δ's file, by its key or file name; `source` says what the arm was found by, for
    records.
    """

    model: ModelUse
    use: SingleUse | StepUse | None
    scene: Scene | None
    max_new_tokens: int
    shifts: Mapping[str, str] = field(default_factory=dict, compare=False)
    source: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        """The intervention's name, or `plain`."""
        return PLAIN_ARM if self.use is None else self.use.name

    def describe(self) -> dict[str, Any]:
        """The arm for records, as JSON types."""
        return {
            "arm": self.name,
            "model": self.model.describe(),
            "interventions": [] if self.use is None else _describe_parts(self.use),
            "shifts": dict(self.shifts),
            **self.source,
        }


def _describe_parts(use: SingleUse | StepUse) -> list[dict[str, Any]]:
    return [_describe(part) for part in list_leaves(use)]


def _describe(part: Steering | DefenceUse) -> dict[str, Any]:
    if isinstance(part, DefenceUse):
        return {
            "name": part.name,
            "kind": part.kind,
            "alpha": part.alpha,
            "options": dict(part.options),
            "shift": part.shift,
            "direction": part.direction,
        }
    return {
        "name": part.name,
        "kind": "cmrm",
        "alpha": part.alpha,
        "level": part.level,
        "shift": part.shift,
        "blocks": part.blocks if isinstance(part.blocks, str) else list(part.blocks),
        "scope": part.scope,
        "composition": part.composition,
        **({} if isinstance(part, FileSteering) else {"image": part.image, "method": part.method}),
    }
