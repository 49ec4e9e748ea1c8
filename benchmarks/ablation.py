"""Blocks × scope × composition × α on the embedded model's validation questions: `python benchmarks/ablation.py`.

Prints a Markdown table: unsafe answers to forbidden questions with their own image, harmless questions refused, and
visual questions answered right. The defaults of the method were chosen from it (docs/decisions/method.md). It uses the
validation questions, so that the test questions stay unseen by every choice.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]
from transformers.utils import logging

from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.organism import WEIGHTS
from cmrm.organism.bench import (
    Bench,
    Intervene,
    answer,
    measure_shift,
    rate_refused,
    rate_right,
    rate_unsafe,
    set_up,
)
from cmrm.organism.files import write_data
from cmrm.prompts.sample import Sample
from cmrm.statistics.rates import Rate
from cmrm.steering.intervention import Intervention
from cmrm.steering.settings import Composition, Scope
from cmrm.steering.shift import Shift, measure_sample_shift

# Blocks, scope, composition and α.
Cell = tuple[tuple[int, ...], Scope, Composition, float]

SEED = 7
QUESTIONS = 256
# The validation words allow a sixth as many questions as the test words.
SHARE = 0.15
SCOPES: tuple[Scope, ...] = ("prefill", "every_step", "all")
COMPOSITIONS: tuple[Composition, ...] = ("direct", "incremental")


def list_cells(count: int) -> Iterator[Cell]:
    """Dataset level: each block alone, the last three, the upper half and all; half strength for one scope only."""
    for block in range(count):
        yield from (((block,), scope, "direct", 1.0) for scope in SCOPES)
        yield (block,), "every_step", "direct", 0.5
    for blocks in list_block_sets(count):
        for composition in COMPOSITIONS:
            yield from ((blocks, scope, composition, 1.0) for scope in SCOPES)
            yield blocks, "every_step", composition, 0.5


def list_sample_cells(count: int) -> Iterator[Cell]:
    """Sample level: the sets of blocks, by strength."""
    for blocks in list_block_sets(count):
        yield from ((blocks, "every_step", "incremental", alpha) for alpha in (0.3, 0.5, 0.7, 1.0))


def list_block_sets(count: int) -> list[tuple[int, ...]]:
    """The last three blocks, the upper half, and all."""
    return [tuple(range(start, count)) for start in (count - 3, count // 2, 0)]


def measure_rates(bench: Bench, intervene: Intervene | None) -> tuple[Rate, Rate, Rate]:
    """Unsafe, refused and right, each over at most 256 questions with their own images."""
    harmful = bench.targets["vlsafe"][:QUESTIONS]
    seen = [sample for sample in bench.targets["bench"] if sample.category == "conv"][:QUESTIONS]
    asked = [sample for sample in bench.targets["bench"] if sample.category != "conv"][:QUESTIONS]
    return (
        rate_unsafe(answer(bench, harmful, "image", intervene)),
        rate_refused(answer(bench, asked, "image", intervene)),
        rate_right(answer(bench, seen, "image", intervene)),
    )


def at_dataset_level(shift: Shift, cell: Cell) -> Intervene:
    """Steer every batch by one Δ with the settings of a cell."""
    blocks, scope, composition, alpha = cell
    return lambda _: Intervention(
        delta=shift.choose(blocks), alpha=alpha, blocks=blocks, scope=scope, composition=composition
    )


def at_sample_level(bench: Bench, cell: Cell) -> Intervene:
    """Steer each question by its own Δ with the settings of a cell."""
    blocks, scope, composition, alpha = cell

    def intervene(samples: Sequence[Sample]) -> Intervention:
        delta = measure_sample_shift(
            bench.vlm,
            with_image=bench.show(samples, "blank"),
            text_only=bench.show(samples, "query"),
            blocks=blocks,
        )
        return Intervention(delta=delta, alpha=alpha, blocks=blocks, scope=scope, composition=composition)

    return intervene


def main() -> None:
    """Measure the grid and print the table."""
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        files = write_data(Path(temporary), seed=SEED, split="validation", share=SHARE)
        bench = set_up(load_model(resolve_model(str(WEIGHTS)), dtype="float32", device="cpu"), files)
        count = len(bench.vlm.blocks)
        shift = measure_shift(bench, *bench.anchors, blocks=range(count))
        cells = [("dataset", cell, at_dataset_level(shift, cell)) for cell in list_cells(count)]
        cells += [("sample", cell, at_sample_level(bench, cell)) for cell in list_sample_cells(count)]
        print("| level | blocks | scope | composition | α | unsafe % | harmless refused % | visual right % |")
        print("| --- | --- | --- | --- | ---: | ---: | ---: | ---: |")
        print(f"| none | | | | | {' | '.join(map(str, measure_rates(bench, None)))} |", flush=True)
        for level, (blocks, scope, composition, alpha), intervene in tqdm(cells, unit="cell"):
            rates = " | ".join(map(str, measure_rates(bench, intervene)))
            named = str(blocks[0]) if len(blocks) == 1 else f"{blocks[0]}–{blocks[-1]}"
            print(f"| {level} | {named} | {scope} | {composition} | {alpha:g} | {rates} |", flush=True)


if __name__ == "__main__":
    main()
