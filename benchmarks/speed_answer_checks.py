"""Shared by the decoding figures: names of variants, a Δ, the hardware limit, and the check of equal answers."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import speed_cmrm_calls as ours
from speed_bench import Bench, compare_answers, find_lengths
from speed_prompts import ask_blank, ask_text, make_questions
from speed_timing import Timing
from torch import Tensor

from cmrm.prompts.conditions import Prompt

PLAIN = "transformers generate"
NAIVE = "transformers generate + hooks"
OURS_PLAIN = "cmrm answer, plain"
OURS = "cmrm answer, steered"
# In half precision, rounding changes a word now and then between any two decoding methods.
ALIKE = 0.9


def find_delta(bench: Bench) -> Tensor:
    """The dataset-level Δ of a few anchors at the steered blocks."""
    questions = make_questions(bench.amounts.peer_pairs, start=10_000)
    blank, text = ask_blank(questions, side=bench.shape.side), ask_text(questions)
    return ours.measure_shift(bench.vlm, blank, text, size=bench.amounts.sizes[0])[list(bench.steered)]


def limit_of(bench: Bench, prompts: Sequence[Prompt], lengths: Sequence[int], *, rows: int) -> float:
    """Seconds at the limit to read prompts with their images and to generate answers of these lengths."""
    _, read = find_lengths(bench.vlm, prompts)
    operations = sum(map(bench.work.prompt, read)) + len(prompts) * bench.work.image()
    reading = operations / bench.limits.operations
    mean = round(statistics.mean(read))
    return reading + bench.work.decoding(mean, lengths, bench.limits, rows=rows)


def compare_with_references(timings: Mapping[str, Timing], pairs: Mapping[str, str]) -> dict[str, float]:
    """For each variant, the share of answers equal to those of its reference."""
    return {
        name: compare_answers(timings[name].result, timings[other].result) for name, other in pairs.items()
    }


def tell_same(same: dict[str, float]) -> dict[str, str]:
    """In words."""
    return {name: "same tokens" if share == 1 else f"{share:.0%} same" for name, share in same.items()}


def is_right(bench: Bench, same: dict[str, float], *names: str) -> bool:
    """Whether the answers equal those of the peers."""
    return min(same[name] for name in names) >= (1.0 if bench.exact else ALIKE)


def describe(lengths: Sequence[int]) -> str:
    """Mean, quartiles and most."""
    low, middle, high = statistics.quantiles(lengths, n=4)
    return f"mean {statistics.mean(lengths):.0f}, quartiles {low:.0f}, {middle:.0f}, {high:.0f}, most {max(lengths)}"
