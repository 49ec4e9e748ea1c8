"""The interface of every defence: the `Defence` base class, and what a run measures for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from cmrm.errors import UserError
from cmrm.prompts.captions import CaptionPrompt
from cmrm.prompts.conditions import Condition, Prompt
from cmrm.steering.settings import Method

if TYPE_CHECKING:
    from torch import Tensor

    from cmrm.models.vlm import VisionLanguageModel
    from cmrm.steering.direction import LabelledDirection
    from cmrm.steering.intervention import Steering
    from cmrm.steering.shift import Shift


@dataclass(frozen=True, kw_only=True)
class Materials:
    """What a run measured for a defence: the labelled direction and the shift Δ that it asked for, else None."""

    direction: LabelledDirection | None = None
    shift: Shift | None = None

    def need_direction(self) -> LabelledDirection:
        """The labelled direction; raises `UserError` without one."""
        if self.direction is None:
            raise UserError("interventions: no labelled direction was measured; give anchors of both labels.")
        return self.direction

    def need_shift(self) -> Shift:
        """The shift Δ; raises `UserError` without one."""
        if self.shift is None:
            raise UserError("interventions: no Δ was measured; give a share in anchors.from.")
        return self.shift


@dataclass(frozen=True, kw_only=True)
class Defence(ABC):
    """Base class of defences: how a question is asked, and how the model's hidden states are changed meanwhile.

    A kind of defence is a frozen keyword-only dataclass. Its fields are the options of a spec: JSON types, required
    where they have no default. `default_alpha` is its strength where the spec gives none; None for a kind that has no
    strength.
    """

    kind: ClassVar[str]
    default_alpha: ClassVar[float | None] = 1.0

    @property
    def direction_from(self) -> Condition | None:
        """The condition of the anchors on whose states its labelled direction is measured; None if it needs none."""
        return None

    @property
    def shift_from(self) -> tuple[Condition, Method] | None:
        """The meaningless image and the method of the Δ that it needs; None if it needs none."""
        return None

    def change_prompt(self, prompt: Prompt) -> Prompt:
        """Make the prompt that is asked in place of the plain one; the same object where nothing changes."""
        return prompt

    def build(
        self,
        vlm: VisionLanguageModel,  # noqa: ARG002 - for kinds that change states
        materials: Materials,  # noqa: ARG002 - as above
        *,
        alpha: float | None,  # noqa: ARG002 - as above
    ) -> Steering | None:
        """Make what changes the hidden states at a strength; None if nothing does."""
        return None

    def contrast(self, alpha: float | None) -> float | None:  # noqa: ARG002 - for kinds that mix logits
        """The strength by which logits of the changed prompt are mixed with those of the plain one; None for no mixing.

        s gives own + s · (own − plain) at each token.
        """
        return None

    def check(self) -> None:  # noqa: B027 - most options always make sense
        """Raise `UserError` for options that make no sense; called when a spec is read."""

    def spec(self) -> Mapping[str, Any]:
        """Return all that determines its answers, besides its strength, as JSON types: part of the cache key."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, kw_only=True)
class SteppedDefence(Defence):
    """Base class of defences with several generations: steps whose answers later prompts need, and then the answer.

    Each step is a job of its own, whose answers are stored, reused and resumed.
    """

    @property
    @abstractmethod
    def steps(self) -> tuple[str, ...]:
        """The steps before the answer, in order; `plain`, if first, is the baseline's answer."""

    @abstractmethod
    def ask(self, step: str, prompt: Prompt, earlier: Mapping[str, str]) -> Prompt:
        """Make the prompt of a step, or of the last one, `answer`, from the plain prompt and the earlier answers."""

    def is_needed(self, step: str, earlier: Mapping[str, str]) -> bool:  # noqa: ARG002 - for kinds that skip steps
        """Whether a question needs a step, given its earlier answers; without the last, its plain answer stands."""
        return True

    def step_spec(self, step: str) -> Mapping[str, Any]:  # noqa: ARG002 - for kinds whose steps depend on less
        """Return what determines a step's answers besides the earlier ones, as JSON types: part of the cache key."""
        return self.spec()

    def caption_prompt(self, step: str) -> CaptionPrompt | None:  # noqa: ARG002 - for kinds that ask for captions
        """Return what a step asks, if it asks for a caption of the image and nothing else, so that it can be shared."""
        return None


@dataclass(frozen=True, kw_only=True)
class OwnShiftDefence(Defence):
    """Base class of defences that measure something on each question itself, between two prompts, and subtract it."""

    @abstractmethod
    def own_blocks(self, vlm: VisionLanguageModel) -> tuple[int, ...]:
        """The blocks at which the states of both prompts are read."""

    @abstractmethod
    def pair(self, prompt: Prompt, earlier: Mapping[str, str]) -> tuple[Prompt, Prompt]:
        """Make the two prompts from the plain one and the earlier answers: with what shifts the states, and without."""

    @abstractmethod
    def build_own(
        self, vlm: VisionLanguageModel, materials: Materials, delta: Tensor, *, alpha: float | None
    ) -> Steering:
        """Make what changes the states of questions, from their differences, float32 [questions, blocks, hidden]."""
