"""Questions that arms are asked from outside of any data set, as the stages' samples."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, NoReturn

from cmrm.prompts.conditions import Condition, Prompt, show
from cmrm.prompts.images import digest_pixels
from cmrm.prompts.sample import Sample
from flows.answering.arm import AnsweringArm
from storage.records.hashing import digest
from tasks.shards.prompts import PromptBuilder
from tasks.shards.samples import StoredSample

if TYPE_CHECKING:
    from cmrm.decoding.requests import FinishReason
    from cmrm.steering.proof import SteeringProof


@dataclass(frozen=True, kw_only=True)
class ArmAnswer:
    """An arm's answer to one question.

    `tokens` and `prompt_tokens` are those of the answer, `all_tokens` and `all_prompt_tokens` those of every generation
    that it took. `proof` is None where no state was to be moved.
    """

    text: str
    finish_reason: FinishReason
    tokens: int
    prompt_tokens: int
    all_tokens: int
    all_prompt_tokens: int
    generations: int = 1
    proof: SteeringProof | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A prompt for one arm, at most `limit` tokens; equal prompts under several arms have one `id`."""

    arm: AnsweringArm
    prompt: Prompt
    limit: int
    id: str
    answer: Future[ArmAnswer] = field(default_factory=Future)
    since: float = field(default_factory=monotonic)

    def end(self, answer: ArmAnswer | BaseException) -> None:
        """Give the answer, or what was wrong, to whoever still waits for it."""
        # Who asked may stop waiting at any moment.
        with suppress(InvalidStateError):
            if isinstance(answer, BaseException):
                self.answer.set_exception(answer)
            else:
                self.answer.set_result(answer)

    @property
    def condition(self) -> Condition:
        """The condition under which the stages show such a prompt."""
        return "query" if self.prompt.image is None else "image"


def name_prompt(prompt: Prompt) -> str:
    """The name of what a prompt shows the model."""
    image = None if prompt.image is None else digest_pixels(prompt.image)
    return digest({"text": prompt.text, "system": prompt.system, "image": image})


@dataclass(frozen=True, kw_only=True)
class AskedSample(StoredSample):
    """Questions with one prompt as a sample, of no data set."""

    prompt: Prompt = field(hash=False)
    questions: Sequence[Question] = field(hash=False, compare=False)


def make_sample(questions: Sequence[Question]) -> AskedSample:
    """Make the sample of questions with one prompt."""
    first = questions[0]
    shown = None if first.prompt.image is None else "image"
    sample = Sample(id=first.id, dataset="", question=first.prompt.text, harmful=False, image=shown)
    return AskedSample(
        sample=sample, split="target", image_digest=None, prompt=first.prompt, questions=questions
    )


@dataclass(frozen=True, kw_only=True)
class AskedPrompts(PromptBuilder):
    """Shows questions as they were asked, and with meaningless images where Δ is measured on each."""

    def show(self, stored: StoredSample, condition: Condition) -> Prompt:
        """Build the prompt of a question under a condition."""
        assert isinstance(stored, AskedSample)  # what is asked here comes from `make_sample`
        prompt = stored.prompt
        if condition == "image" or (condition == "query" and prompt.image is None):
            return prompt
        return show(
            stored.sample,
            condition,
            open_image=_refuse_to_open,
            open_media=_refuse_to_open,
            meaningless=self.meaningless,
            system=prompt.system,
        )


def _refuse_to_open(name: object) -> NoReturn:
    raise AssertionError(f"{name}: images of questions are open")
