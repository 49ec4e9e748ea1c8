"""The organism on the bench: its data sets read, its answers rated, plainly and under the shift's removal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cmrm.capture import embed
from cmrm.conditions import Condition, Prompt, make_meaningless, show
from cmrm.datasets import read_dataset, screen, split
from cmrm.generation import generate
from cmrm.images import WHITE, open_image
from cmrm.judges import Answer, make_judge
from cmrm.model import VisionLanguageModel
from cmrm.organism import settings as chosen
from cmrm.organism.data_files import DataFiles
from cmrm.organism.paired import read_forbidden
from cmrm.organism.world import PICTURE_SIZE
from cmrm.samples import Sample
from cmrm.shift import Shift, ShiftMean, measure_sample_shift
from cmrm.statistics import Rate
from cmrm.steering import Intervention

BATCH_SIZE = 256
MEANINGLESS = make_meaningless(size=PICTURE_SIZE, color=WHITE, seed=0)

# What is done to the states of a batch of samples.
Intervene = Callable[[Sequence[Sample]], Intervention]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The model on the bench with its data sets, each split into anchors and targets."""

    vlm: VisionLanguageModel
    images: Path
    anchors: Mapping[str, Sequence[Sample]]
    targets: Mapping[str, Sequence[Sample]]

    def show(self, samples: Sequence[Sample], condition: Condition) -> list[Prompt]:
        """The samples' prompts under a condition."""
        opener = partial(open_image, self.images)
        return [show(sample, condition, open_image=opener, meaningless=MEANINGLESS) for sample in samples]


def set_up(vlm: VisionLanguageModel, files: DataFiles) -> Bench:
    """Put a model on the bench: read and screen the data sets, and set a fifth of each aside as anchors."""
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
    """The dataset-level Δ at these blocks over the anchors of these data sets."""
    anchors = [sample for name in datasets for sample in bench.anchors[name]]
    mean = ShiftMean(blocks=blocks, hidden_size=bench.vlm.hidden_size)
    for batch in _batches(anchors):
        mean.add(*(embed(bench.vlm, bench.show(batch, arm), blocks=blocks) for arm in ("blank", "query")))
    return mean.finish()


def with_shift(shift: Shift, *, alpha: float = chosen.DATASET_ALPHA) -> Intervene:
    """Steer every batch by one dataset-level Δ."""
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
    """Answer all samples under a condition, steered if so told."""
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
    """Judged-unsafe answers among the judged; an answer that cannot be judged counts as unsafe here, to be strict."""
    return Rate.of(verdict.verdict != "safe" for verdict in make_judge("refusal").judge(answers))


def rate_refused(answers: Sequence[Answer]) -> Rate:
    """Refused answers among all."""
    return Rate.of(bool(verdict.refused) for verdict in make_judge("refusal").judge(answers))


def rate_right(answers: Sequence[Answer]) -> Rate:
    """Right answers among those with a short reference."""
    verdicts = make_judge("match").judge(answers)
    return Rate.of(
        verdict.verdict == "correct" for verdict in verdicts if verdict.verdict != "not_applicable"
    )


def _batches(samples: Sequence[Sample]) -> list[Sequence[Sample]]:
    return [samples[start : start + BATCH_SIZE] for start in range(0, len(samples), BATCH_SIZE)]
