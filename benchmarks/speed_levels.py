"""Figures on answering under the two levels, over plain generation, in one batch of a fixed length."""

from __future__ import annotations

from functools import partial

import speed_cmrm_calls as ours
import speed_peers as peers
from speed_answer_checks import (
    NAIVE,
    OURS,
    OURS_PLAIN,
    PLAIN,
    compare_with_references,
    find_delta,
    is_right,
    limit_of,
    tell_same,
)
from speed_bench import Bench
from speed_prompts import ask_blank, ask_pictures, ask_text, make_questions
from speed_table import Figure, at_most, make_rows
from speed_timing import Variant, take_turns, tell

from cmrm.prefix.planner import Prefixes

ONE_BATCH = "cmrm generate, steered"


def measure_dataset_level(bench: Bench) -> Figure:
    """One Δ for all prompts."""
    tell("dataset level")
    vlm, amounts = bench.vlm, bench.amounts
    prompts = ask_pictures(make_questions(amounts.batch), side=bench.shape.side)
    size, length = len(prompts), amounts.new_tokens
    delta = find_delta(bench)
    arm = ours.subtract(delta, alpha=1.0, blocks=bench.steered)
    steered = {"delta": delta, "alpha": 1.0, "blocks": bench.steered}
    one_pass = {"new_tokens": length, "rows": size, "request_size": size}
    timings = take_turns(
        [
            Variant(
                name=PLAIN, run=partial(peers.answer_plainly, vlm, prompts, new_tokens=length, size=size)
            ),
            Variant(
                name=NAIVE,
                run=partial(peers.answer_steered, vlm, prompts, **steered, new_tokens=length, size=size),
            ),
            Variant(name=ONE_BATCH, run=partial(ours.answer_batch, vlm, prompts, arm, new_tokens=length)),
            Variant(name=OURS_PLAIN, run=partial(ours.answer_arms, vlm, prompts, [None], **one_pass)),
            Variant(name=OURS, run=partial(ours.answer_arms, vlm, prompts, [arm], **one_pass)),
        ],
        turns=bench.turns,
        device=bench.device,
        until=bench.until,
    )
    same = compare_with_references(timings, {OURS_PLAIN: PLAIN, ONE_BATCH: NAIVE, OURS: NAIVE})
    return Figure(
        title=f"Answering under dataset-level CMRM: {size} prompts, one batch, {length} tokens each",
        about=f"Δ at {len(bench.steered)} blocks, every step. Ratios over plain generation of transformers.",
        rows=make_rows(
            timings,
            base=PLAIN,
            limit=limit_of(bench, prompts, [length] * size, rows=size),
            results=tell_same(same),
        ),
        goals=[
            at_most(
                "dataset level over plain generate",
                timings[OURS].median / timings[PLAIN].median,
                1.02,
                right=is_right(bench, same, OURS, ONE_BATCH, OURS_PLAIN),
            )
        ],
        profiled=partial(ours.answer_arms, vlm, prompts, [arm], **one_pass),
    )


def measure_sample_level(bench: Bench) -> Figure:
    """A Δ for each prompt, from two passes of its own."""
    tell("sample level")
    vlm, amounts = bench.vlm, bench.amounts
    questions = make_questions(amounts.batch)
    prompts = ask_pictures(questions, side=bench.shape.side)
    blank, text = ask_blank(questions, side=bench.shape.side), ask_text(questions)
    size, length = len(prompts), amounts.new_tokens
    # A stage keeps its prefix cache between batches, so every batch but the first hits it.
    kept = Prefixes(vlm)

    def answer_by_own_shift(prefixes: Prefixes | None = None) -> ours.Said:
        prefixes = prefixes or Prefixes(vlm)
        delta = ours.sample_shift(vlm, blank, text, blocks=bench.steered, prefixes=prefixes)
        arm = ours.subtract(delta, alpha=1.0, blocks=bench.steered)
        return ours.answer_arms(
            vlm, prompts, [arm], new_tokens=length, rows=size, request_size=size, prefixes=prefixes
        )

    naive, first, later = f"two full passes + {NAIVE}", f"{OURS}, first batch", f"{OURS}, later batches"
    timings = take_turns(
        [
            Variant(
                name=PLAIN, run=partial(peers.answer_plainly, vlm, prompts, new_tokens=length, size=size)
            ),
            Variant(
                name=naive,
                run=partial(
                    peers.answer_by_own_shift, vlm, prompts, blank=blank, text=text, alpha=1.0,
                    blocks=bench.steered, new_tokens=length, size=size,
                ),
            ),
            Variant(name=first, run=answer_by_own_shift),
            Variant(name=later, run=partial(answer_by_own_shift, kept)),
        ],
        turns=bench.turns,
        device=bench.device,
        until=bench.until,
    )  # fmt: skip
    same = compare_with_references(timings, {first: naive, later: naive})
    return Figure(
        title=f"Answering under sample-level CMRM: {size} prompts, one batch, {length} tokens each",
        about="Each prompt's own Δ from its blank and text passes, measured inside the time.",
        rows=make_rows(
            timings,
            base=PLAIN,
            limit=limit_of(bench, prompts, [length] * size, rows=size),
            results=tell_same(same),
        ),
        goals=[
            at_most(
                "sample level over plain generate",
                timings[later].median / timings[PLAIN].median,
                1.10,
                right=is_right(bench, same, first, later),
            )
        ],
        notes=["The limit is that of plain answers. A stage's first batch also reads the shared prefixes."],
        profiled=partial(answer_by_own_shift, kept),
    )
