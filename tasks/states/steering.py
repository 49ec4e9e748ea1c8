"""Interventions in a job: what each is made of, and its key content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cmrm.defences import DEFENCES, Defence, OwnShiftDefence, SteppedDefence
from cmrm.prompts.captions import CaptionPrompt
from cmrm.prompts.conditions import TEXT_ONLY, Condition, Prompt
from cmrm.prompts.reasoning import ReasoningMarks, find_final
from storage.shards.rows import need_manifest, read_rows
from storage.store import Store
from tasks.core.models import ModelUse
from tasks.core.options import build_plugin
from tasks.core.stage_name import StageName
from tasks.shards.samples import read_captions

if TYPE_CHECKING:
    from tasks.shards.prompts import PromptBuilder


# The last step of a defence with several generations, and the step that is the baseline's answer.
ANSWER, PLAIN = "answer", "plain"


@dataclass(frozen=True, kw_only=True)
class Steering:
    """CMRM as part of a job: `shift` is the key of a dataset-level Δ, or None at sample level."""

    # No logits are mixed.
    contrast: ClassVar[None] = None

    name: str
    level: str
    image: Condition
    method: str
    alpha: float
    blocks: str | tuple[int, ...]
    scope: str
    composition: str
    shift: str | None

    def content(self, showing: PromptBuilder) -> dict[str, Any]:
        """The key content that determines states and answers: its Δ, not its name."""
        return {
            "level": self.level,
            "shift": self.shift or showing.content(self.image),
            "alpha": self.alpha,
            "blocks": self.blocks,
            "scope": self.scope,
            "composition": self.composition,
            # Rounded to the model's dtype once; earlier releases rounded αΔ too, which changed it in half precision.
            "subtracted_in": "float32",
        }

    def ask(self, prompt: Prompt, _sample: str, _store: str) -> Prompt:
        """The prompt that is asked: the plain one."""
        return prompt


@dataclass(frozen=True, kw_only=True)
class FileSteering(Steering):
    """CMRM by a file of Δ outside any store; `shift` is the SHA-256 of its bytes."""

    file: Path


@dataclass(frozen=True, kw_only=True)
class DefenceUse:
    """Another defence as part of a job: its kind, its options as JSON types, and what was measured for it.

    `direction` and `shift` are keys of a labelled direction and of a dataset-level Δ, each None if it needs none.
    """

    # Levels are those of CMRM.
    level: ClassVar[None] = None

    name: str
    kind: str
    alpha: float | None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    direction: str | None = None
    shift: str | None = None

    @property
    def defence(self) -> Defence:
        """The defence itself."""
        return _keep(self)

    @property
    def contrast(self) -> float | None:
        """The strength by which logits of two prompts are mixed; None for no mixing."""
        return self.defence.contrast(self.alpha)

    def ask(self, prompt: Prompt, _sample: str, _store: str) -> Prompt:
        """The prompt that is asked in place of the plain one."""
        return self.defence.change_prompt(prompt)

    def content(self, _showing: PromptBuilder) -> dict[str, Any]:
        """The key content that determines states and answers: all but its name."""
        return {
            "kind": self.kind,
            "alpha": self.alpha,
            "options": dict(self.defence.spec()),
            "direction": self.direction,
            "shift": self.shift,
        }


@dataclass(frozen=True, kw_only=True)
class StackUse:
    """Several defences at once, in one arm: prompts change one after the other, and all of them steer."""

    # Each part has a strength of its own.
    alpha: ClassVar[None] = None
    # Levels are those of the parts.
    level: ClassVar[None] = None
    # No logits are mixed: a spec refuses it in a stack.
    contrast: ClassVar[None] = None

    name: str
    parts: tuple[Steering | DefenceUse, ...]

    def ask(self, prompt: Prompt, sample: str, store: str) -> Prompt:
        """The prompt that is asked in place of the plain one."""
        for part in self.parts:
            prompt = part.ask(prompt, sample, store)
        return prompt

    def content(self, showing: PromptBuilder) -> dict[str, Any]:
        """The key content that determines states and answers: that of all parts, in their order."""
        return {"kind": "stack", "alpha": None, "parts": [part.content(showing) for part in self.parts]}


@dataclass(frozen=True, kw_only=True)
class StepUse:
    """One generation of a defence that needs several: a step before the answer, or the answer (`step` is `answer`).

    `earlier` holds the keys of the responses of the steps before, by step, on the same shard. Those of the steps that
    `captioned` names are keys of the run's captions, which the step would have repeated. `reasoning` are the marks of
    the traces that the other ones have, if any: the step is given what follows.
    """

    # Levels are those of CMRM.
    level: ClassVar[None] = None
    # No logits are mixed.
    contrast: ClassVar[None] = None

    name: str
    of: DefenceUse
    step: str
    earlier: tuple[tuple[str, str], ...]
    captioned: tuple[str, ...] = ()
    reasoning: ReasoningMarks | None = None

    @property
    def alpha(self) -> float | None:
        """The defence's strength, at the step that it acts on."""
        return self.of.alpha if self.is_last else None

    @property
    def stepped(self) -> SteppedDefence:
        """The defence itself."""
        found = self.of.defence
        assert isinstance(found, SteppedDefence)  # the plan makes steps of no other
        return found

    @property
    def is_last(self) -> bool:
        """Whether it gives the answer."""
        return self.step == ANSWER

    def ask(self, prompt: Prompt, sample: str, store: str) -> Prompt:
        """The prompt of the step."""
        return self.stepped.ask(self.step, prompt, self.read_earlier(sample, store))

    def is_needed(self, sample: str, store: str) -> bool:
        """Whether a sample with all earlier answers needs the step."""
        return self.stepped.is_needed(self.step, self.read_earlier(sample, store))

    def pair(self, prompt: Prompt, sample: str, store: str) -> tuple[Prompt, Prompt]:
        """The two prompts between which a sample's own Δ is measured, from its plain prompt."""
        found = self.of.defence
        assert isinstance(found, OwnShiftDefence)  # asked for leaves with a Δ of their own alone
        return found.pair(prompt, self.read_earlier(sample, store))

    def explain_gap(self, sample: str, store: str) -> str | None:
        """Say which answer of a step before the sample lacks and needs; None if it has all."""
        found: dict[str, str] = {}
        for step, key in self.earlier:
            text = self._read(step, key, sample, store)
            if text is not None:
                found[step] = text
            elif step == PLAIN or self.stepped.is_needed(step, found):
                why = "there is none: see the reason of that step"
                if step not in self.captioned and sample in read_answers(store, key):
                    why = "it is a reasoning trace alone; raise generation.max_new_tokens"
                return f"{self.of.kind} needs its {step} answer, and {why}"
        return None

    def read_earlier(self, sample: str, store: str) -> dict[str, str]:
        """The earlier answers to a sample, by step, without traces; '' for one that it does not need."""
        return {step: self._read(step, key, sample, store) or "" for step, key in self.earlier}

    def find_plain(self, sample: str, store: str) -> StoredAnswer:
        """The answer that stands where the last step is not needed; an empty one where a step before is not."""
        keys = dict(self.earlier)
        if self.is_last and PLAIN in keys:
            return read_answers(store, keys[PLAIN])[sample]
        return StoredAnswer(text="", tokens=0, finish_reason="stop")

    def content(self, _showing: PromptBuilder) -> dict[str, Any]:
        """The key content that determines states and answers: all but its name."""
        return {
            "kind": self.of.kind,
            "step": self.step,
            "alpha": self.alpha,
            "options": dict(self.stepped.step_spec(self.step)),
            "direction": self.of.direction if self.is_last else None,
            "earlier": dict(self.earlier),
            **({} if self.reasoning is None else {"without_trace": self.reasoning.content()}),
        }

    def _read(self, step: str, key: str, sample: str, store: str) -> str | None:
        if step in self.captioned:
            return keep_captions(store, key).get(sample)
        answer = read_answers(store, key).get(sample)
        return None if answer is None else find_final(answer.text, self.reasoning)


@dataclass(frozen=True, kw_only=True)
class CaptionUse:
    """A caption of the image in place of an answer, as part of a job: what the model is asked for it."""

    # It is no defence, so it has neither a name nor a strength, and mixes no logits.
    name: ClassVar[str] = ""
    alpha: ClassVar[None] = None
    level: ClassVar[None] = None
    contrast: ClassVar[None] = None

    prompt: CaptionPrompt

    def ask(self, prompt: Prompt, _sample: str, _store: str) -> Prompt:
        """The prompt that is asked in place of the plain one."""
        return self.prompt.ask(prompt)

    def content(self, _showing: PromptBuilder) -> dict[str, Any]:
        """The key content that determines the caption."""
        return {"style": self.prompt.style, "prompt": self.prompt.text}


# One intervention of an arm: with one generation, or any.
SingleUse = Steering | DefenceUse | StackUse
Use = SingleUse | StepUse | CaptionUse


def is_stepped(use: DefenceUse) -> bool:
    """Whether a defence generates several times."""
    return isinstance(use.defence, SteppedDefence)


def list_steps(use: DefenceUse) -> tuple[str, ...]:
    """List the generations of a defence with several, in order, without the baseline's."""
    found = use.defence
    steps = found.steps if isinstance(found, SteppedDefence) else ()
    return (*(step for step in steps if step != PLAIN), ANSWER)


def needs_plain(use: DefenceUse) -> bool:
    """Whether the steps of a defence need the baseline's answers."""
    return isinstance(use.defence, SteppedDefence) and PLAIN in use.defence.steps


def list_leaves(use: Use) -> tuple[Steering | DefenceUse, ...]:
    """List what an intervention changes states by: the parts of a stack, else itself; nothing in a step before."""
    if isinstance(use, CaptionUse):
        return ()
    if isinstance(use, StackUse):
        return use.parts
    if isinstance(use, StepUse):
        return (use.of,) if use.is_last else ()
    return (use,)


def asks_otherwise(use: Use) -> bool:
    """Whether an intervention asks anything but the plain prompt."""
    probe = Prompt(text="question")
    if isinstance(use, StepUse):
        # Any earlier answers do: they are filled in, or nothing is.
        earlier = {step: "answer" for step, _ in use.earlier}
        return use.stepped.ask(use.step, probe, earlier) is not probe
    return use.ask(probe, "", "") is not probe


def needs_own_shift(leaf: Steering | DefenceUse) -> bool:
    """Whether it subtracts a Δ of each sample's own, measured while the batch is answered."""
    return leaf.shift is None if isinstance(leaf, Steering) else isinstance(leaf.defence, OwnShiftDefence)


def list_meaningless(condition: Condition, *uses: Use | None) -> list[Condition]:
    """List the conditions whose images a job shows: its own, and those that a sample-level Δ is measured with."""
    measured = [
        leaf.image
        for use in uses
        if use is not None
        for leaf in list_leaves(use)
        if isinstance(leaf, Steering) and needs_own_shift(leaf)
    ]
    return [condition, *measured]


def describe_model(model: ModelUse, condition: Condition, steering: Use | None) -> dict[str, Any]:
    """The key content of a model that determines states and answers: its image backend only where an image is shown.

    A Δ is measured from images, so an intervention counts as one.
    """
    if condition in TEXT_ONLY and steering is None:
        return model.content()
    return model.content_with_images()


@dataclass(frozen=True, kw_only=True)
class StoredAnswer:
    """An answer as its row of `responses` has it."""

    text: str
    tokens: int
    finish_reason: str


# A shard's answers take a few hundred kilobytes, and each batch of a step needs them.
@lru_cache(maxsize=16)
def read_answers(url: str, key: str) -> Mapping[str, StoredAnswer]:
    """Read the answers of a committed generate job, by sample."""
    store = Store.open(url)
    columns = ("sample_id", "answer", "tokens", "finish_reason")
    rows = read_rows(store, need_manifest(store, StageName.GENERATE, key), "responses", columns)
    return {
        row["sample_id"]: StoredAnswer(
            text=row["answer"], tokens=row["tokens"], finish_reason=row["finish_reason"]
        )
        for row in rows.to_pylist()
    }


# As above.
@lru_cache(maxsize=16)
def keep_captions(url: str, key: str) -> Mapping[str, str]:
    """Read the captions of a committed caption job, by sample, once."""
    return read_captions(Store.open(url), key)


@lru_cache(maxsize=256)
def _keep(use: DefenceUse) -> Defence:
    return build_plugin(DEFENCES, use.kind, use.options)
