"""Decode requests of questions: the stages' own builder, for the arms of one model that are asked together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cmrm.prompts.conditions import Condition
from flows.answering.arm import AnsweringArm, Scene
from flows.answering.questions import AskedPrompts, AskedSample, Question, make_sample
from tasks.core.stage_name import StageName
from tasks.generate.prepare import (
    ArmUse,
    PendingSample,
    Prepared,
    QuarantinedSample,
    RequestBuilder,
    Steered,
)
from tasks.generate.stage import REQUESTS
from tasks.shards.batch_size import choose_rows
from tasks.shards.stimuli import fit_images
from tasks.states.steering import list_meaningless

if TYPE_CHECKING:
    from cmrm.models.vlm import VisionLanguageModel
    from cmrm.prefix.planner import Prefixes


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What the questions of one decode request have in common."""

    scene: Scene | None
    condition: Condition


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Questions with their rendered prompts, and the builder that rendered them."""

    builder: BatchBuilder
    questions: Sequence[Question]
    prepared: Prepared


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a decode request was made of: its samples by row, and its arms, as the builder numbers them."""

    builder: BatchBuilder
    samples: Sequence[AskedSample]
    arms: Sequence[int]

    def list_questions(self, row: int, place: int) -> list[Question]:
        """List the questions that the answer to a row under an arm is for."""
        number = self.arms[place]
        return [one for one in self.samples[row].questions if self.builder.number(one) == number]


class BatchBuilder:
    """Renders questions of one kind, and makes decode requests of them."""

    def __init__(self, vlm: VisionLanguageModel, arms: Sequence[AnsweringArm], kind: Kind) -> None:
        self.arms = arms
        self._kind = kind
        meaningless = {} if kind.scene is None else kind.scene.meaningless
        showing = AskedPrompts(images=None, meaningless=meaningless, system=None)
        self._showing = fit_images(showing, vlm, list_meaningless(kind.condition, *(arm.use for arm in arms)))
        self._requests = RequestBuilder(
            [ArmUse(use=arm.use, store="" if arm.scene is None else arm.scene.store) for arm in arms],
            vlm,
            showing=self._showing,
            condition=kind.condition,
            stage=StageName.GENERATE,
        )
        self._numbers = {arm: number for number, arm in enumerate(arms)}

    def number(self, question: Question) -> int:
        """The number of a question's arm."""
        return self._numbers[question.arm]

    def prepare(self, questions: Sequence[Question]) -> Batch:
        """Open and render prompts; runs in the thread that prepares them."""
        prepared = self._requests.prepare(self._make_samples(questions))
        return Batch(builder=self, questions=questions, prepared=prepared)

    def steer(self, batch: Batch, prefixes: Prefixes) -> tuple[Steered, Given]:
        """Measure what is measured on each question, and make the decode request."""
        steered = self._requests.steer(batch.prepared, prefixes)
        samples = [one for one in steered.samples if isinstance(one, AskedSample)]
        return steered, Given(builder=self, samples=samples, arms=steered.arms)

    def list_refused(
        self, batch: Batch, quarantined: Iterable[QuarantinedSample]
    ) -> Iterator[tuple[Question, str]]:
        """List the questions of a batch that got no place in it, each with the reason."""
        for one in quarantined:
            for question in batch.questions:
                if question.id == one.row["sample_id"] and self.number(question) in one.arms:
                    yield question, str(one.row["reason"])

    def choose_rows(self, questions: Sequence[Question], prefixes: Prefixes) -> int:
        """Choose how many prompts like these are decoded at once, as free memory allows."""
        asked = frozenset(map(self.number, questions))
        alone = self._requests.count_alone(asked)
        return choose_rows(
            self._requests.renderer,
            self._showing,
            self._kind.condition,
            [one.stored for one in self._make_samples(questions)],
            prefixes,
            arms=len(asked) - alone,
            alone=alone,
            requests=REQUESTS,
            max_new_tokens=questions[0].limit,
        )

    def _make_samples(self, questions: Sequence[Question]) -> list[PendingSample]:
        """Make a sample of each prompt, under the arms that it is asked under."""
        same: dict[str, list[Question]] = {}
        for one in questions:
            same.setdefault(one.id, []).append(one)
        return [
            PendingSample(stored=make_sample(group), arms=frozenset(map(self.number, group)))
            for group in same.values()
        ]


class BatchBuilders:
    """The builders of one model, by kind of question; an arm that is new to a kind makes its builder anew."""

    def __init__(self, vlm: VisionLanguageModel) -> None:
        self._vlm = vlm
        self._known: dict[Kind, BatchBuilder] = {}

    def find(self, questions: Sequence[Question]) -> BatchBuilder:
        """Find the builder for questions that fit together; raises `UserError` for a block that the model lacks."""
        scene = next((one.arm.scene for one in questions if one.arm.scene is not None), None)
        kind = Kind(scene=scene, condition=questions[0].condition)
        known = self._known.get(kind)
        before = () if known is None else known.arms
        arms = tuple(dict.fromkeys([*before, *(one.arm for one in questions)]))
        if known is None or len(arms) > len(before):
            known = self._known[kind] = BatchBuilder(self._vlm, arms, kind)
        return known
