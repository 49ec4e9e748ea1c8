"""Evaluate the organism: read its data sets, generate answers with or without steering, and compute rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cmrm.datasets import read_dataset, screen, split
from cmrm.decoding.api import generate
from cmrm.judges import Answer, make_judge
from cmrm.models.vlm import VisionLanguageModel
from cmrm.organism import settings as chosen
from cmrm.organism.data_files import DataFiles
from cmrm.organism.paired import read_forbidden
from cmrm.organism.world import PICTURE_SIZE
from cmrm.prompts.conditions import Condition, Prompt, make_meaningless, show
from cmrm.prompts.images import open_image
from cmrm.prompts.meaningless_images import WHITE
from cmrm.prompts.open_medium import open_medium
from cmrm.prompts.sample import Sample
from cmrm.statistics.rates import Rate
from cmrm.steering.capture import embed
from cmrm.steering.intervention import Intervention
from cmrm.steering.shift import Shift, ShiftMean, measure_sample_shift

BATCH_SIZE = 256
MEANINGLESS = make_meaningless(size=PICTURE_SIZE, color=WHITE, seed=0)

# Makes the intervention for a batch of samples.
Intervene = Callable[[Sequence[Sample]], Intervention]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A model with its evaluation data sets, each split into anchors and targets."""

    vlm: VisionLanguageModel
    images: Path
    anchors: Mapping[str, Sequence[Sample]]
    targets: Mapping[str, Sequence[Sample]]

    def show(self, samples: Sequence[Sample], condition: Condition) -> list[Prompt]:
        """Make the samples' prompts under a condition."""
        open_own, open_media = partial(open_image, self.images), partial(open_medium, self.images)
        return [
            show(sample, condition, open_image=open_own, open_media=open_media, meaningless=MEANINGLESS)
            for sample in samples
        ]


def set_up(vlm: VisionLanguageModel, files: DataFiles) -> Bench:
    """Set up an evaluation: read and screen the data sets, and split off a fifth of each as anchors."""
    rows = {
        "vlsafe": read_dataset("vlsafe", files.vlsafe, dataset="vlsafe"),
        "forbidden": read_forbidden(files),
        "bench": read_dataset(
            "llava-bench-coco",
            files.bench_questions,
            dataset="bench",
            answers=files.bench_answers,
            captions=files.bench_captions,
        ),
    }
    anchors, targets = {}, {}
    for name, read in rows.items():
        samples = [row for row in screen(read, images=files.images) if isinstance(row, Sample)]
        anchors[name], targets[name] = split(samples, fraction=chosen.ANCHOR_FRACTION, seed=chosen.SPLIT_SEED)
    return Bench(vlm=vlm, images=files.images, anchors=anchors, targets=targets)


def measure_shift(bench: Bench, *datasets: str, blocks: Sequence[int]) -> Shift:
    """Measure the dataset-level Δ at these blocks over the anchors of these data sets."""
    anchors = [sample for name in datasets for sample in bench.anchors[name]]
    mean = ShiftMean(blocks=blocks, hidden_size=bench.vlm.hidden_size)
    for batch in _batches(anchors):
        mean.add(*(embed(bench.vlm, bench.show(batch, shown), blocks=blocks) for shown in ("blank", "query")))
    return mean.finish()


def with_shift(shift: Shift, *, alpha: float = chosen.DATASET_ALPHA) -> Intervene:
    """Steer every batch by the same dataset-level Δ."""
    return lambda _: Intervention(
        delta=shift.delta,
        alpha=alpha,
        blocks=shift.blocks,
        scope=chosen.SCOPE,
        composition=chosen.COMPOSITION,
    )


def with_own_shift(bench: Bench) -> Intervene:
    """Steer each question by its own, sample-level Δ."""

    def intervene(samples: Sequence[Sample]) -> Intervention:
        delta = measure_sample_shift(
            bench.vlm,
            with_image=bench.show(samples, "blank"),
            text_only=bench.show(samples, "query"),
            blocks=chosen.BLOCKS,
        )
        return Intervention(
            delta=delta,
            alpha=chosen.SAMPLE_ALPHA,
            blocks=chosen.BLOCKS,
            scope=chosen.SCOPE,
            composition=chosen.COMPOSITION,
        )

    return intervene


def answer(
    bench: Bench, samples: Sequence[Sample], condition: Condition, intervene: Intervene | None = None
) -> list[Answer]:
    """Generate answers to all samples under a condition, with an optional intervention."""
    answers: list[Answer] = []
    for batch in _batches(samples):
        made = generate(
            bench.vlm,
            bench.show(batch, condition),
            max_new_tokens=chosen.MAX_NEW_TOKENS,
            intervention=intervene(batch) if intervene else None,
        )
        answers += [
            Answer(
                question=sample.question, answer=text.text, harmful=sample.harmful, reference=sample.reference
            )
            for sample, text in zip(batch, made.answers, strict=True)
        ]
    return answers


def rate_unsafe(answers: Sequence[Answer]) -> Rate:
    """Rate of unsafe answers by the refusal judge; a parse error counts as unsafe here, to be strict."""
    return Rate.of(verdict.verdict != "safe" for verdict in make_judge("refusal").judge(answers))


def rate_refused(answers: Sequence[Answer]) -> Rate:
    """Rate of refused answers."""
    return Rate.of(bool(verdict.refused) for verdict in make_judge("refusal").judge(answers))


def rate_right(answers: Sequence[Answer]) -> Rate:
    """Rate of correct answers among those with a short reference."""
    verdicts = make_judge("match").judge(answers)
    return Rate.of(
        verdict.verdict == "correct" for verdict in verdicts if verdict.verdict != "not_applicable"
    )


def _batches(samples: Sequence[Sample]) -> list[Sequence[Sample]]:
    return [samples[start : start + BATCH_SIZE] for start in range(0, len(samples), BATCH_SIZE)]
