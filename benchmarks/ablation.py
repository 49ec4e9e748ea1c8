"""Blocks × scope × composition × α on the embedded model's validation questions: `python benchmarks/ablation.py`.

Prints a Markdown table: unsafe answers to forbidden questions with their own image, harmless questions refused, and
visual questions answered right. The defaults of the method were chosen from it (docs/decisions.md). It uses the
validation questions, so that the test questions stay unseen by every choice.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers.utils import logging

from cmrm.capture import embed
from cmrm.generation import generate
from cmrm.judges import Answer
from cmrm.model import load_model
from cmrm.organism import WEIGHTS, settings
from cmrm.organism.check import BATCH_SIZE, Bench, rate_refused, rate_right, rate_unsafe, set_up
from cmrm.organism.files import write_data
from cmrm.revision import resolve_model
from cmrm.samples import Sample
from cmrm.shift import Shift, ShiftMean
from cmrm.statistics import Rate
from cmrm.steering import Composition, Intervention, Scope

SEED = 7
QUESTIONS = 256
SCOPES: tuple[Scope, ...] = ("prefill", "every_step", "all")
COMPOSITIONS: tuple[Composition, ...] = ("direct", "incremental")


def list_interventions(count: int) -> Iterator[tuple[tuple[int, ...], Scope, Composition, float]]:
    """The grid: each block alone, the last three, the upper half and all; half strength for one scope only."""
    groups = [tuple(range(start, count)) for start in (count - 3, count // 2, 0)]
    for block in range(count):
        yield from (((block,), scope, "direct", 1.0) for scope in SCOPES)
        yield (block,), "every_step", "direct", 0.5
    for blocks in groups:
        for composition in COMPOSITIONS:
            yield from ((blocks, scope, composition, 1.0) for scope in SCOPES)
            yield blocks, "every_step", composition, 0.5


def measure_shift(bench: Bench) -> Shift:
    """Δ at every block over all anchors."""
    blocks = range(len(bench.vlm.blocks))
    mean = ShiftMean(blocks=blocks, hidden_size=bench.vlm.hidden_size)
    anchors = [sample for samples in bench.anchors.values() for sample in samples]
    for start in range(0, len(anchors), BATCH_SIZE):
        batch = anchors[start : start + BATCH_SIZE]
        arms: list[Tensor] = [
            embed(bench.vlm, bench.show(batch, arm), blocks=blocks) for arm in ("blank", "query")
        ]
        mean.add(*arms)
    return mean.finish()


def ask(bench: Bench, samples: Sequence[Sample], intervention: Intervention | None) -> list[Answer]:
    """Answer the samples, each with its own image."""
    made = generate(
        bench.vlm,
        bench.show(samples, "image"),
        max_new_tokens=settings.MAX_NEW_TOKENS,
        intervention=intervention,
    )
    return [
        Answer(
            question=sample.question, answer=answer.text, harmful=sample.harmful, reference=sample.reference
        )
        for sample, answer in zip(samples, made.answers, strict=True)
    ]


def measure_rates(bench: Bench, intervention: Intervention | None) -> tuple[Rate, Rate, Rate]:
    """Unsafe, refused and right, each over at most 256 questions."""
    harmful = bench.targets["vlsafe"][:QUESTIONS]
    seen = [sample for sample in bench.targets["bench"] if sample.category == "conv"][:QUESTIONS]
    asked = [sample for sample in bench.targets["bench"] if sample.category != "conv"][:QUESTIONS]
    unsafe = rate_unsafe(ask(bench, harmful, intervention))
    return unsafe, rate_refused(ask(bench, asked, intervention)), rate_right(ask(bench, seen, intervention))


def main() -> None:
    """Measure the grid and print the table."""
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        files = write_data(Path(temporary), seed=SEED, split="validation")
        bench = set_up(load_model(resolve_model(str(WEIGHTS)), dtype="float32", device="cpu"), files)
        shift = measure_shift(bench)
        print(
            "| blocks | scope | composition | α | unsafe % | harmless refused % | visual questions right % |"
        )
        print("| --- | --- | --- | ---: | ---: | ---: | ---: |")
        print(f"| none | | | | {' | '.join(map(str, measure_rates(bench, None)))} |")
        for blocks, scope, composition, alpha in tqdm(
            [*list_interventions(len(bench.vlm.blocks))], unit="cell"
        ):
            intervention = Intervention(
                delta=shift.choose(blocks), alpha=alpha, blocks=blocks, scope=scope, composition=composition
            )
            rates = " | ".join(map(str, measure_rates(bench, intervention)))
            named = str(blocks[0]) if len(blocks) == 1 else f"{blocks[0]}–{blocks[-1]}"
            print(f"| {named} | {scope} | {composition} | {alpha:g} | {rates} |", flush=True)


if __name__ == "__main__":
    main()
