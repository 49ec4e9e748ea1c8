"""Figures on answering a data set: under every strength at once, and with answers of all lengths."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import speed_cmrm_calls as ours
import speed_peers as peers
from speed_answer_checks import (
    NAIVE,
    OURS,
    OURS_PLAIN,
    PLAIN,
    compare_with_references,
    describe,
    find_delta,
    is_right,
    limit_of,
    tell_same,
)
from speed_bench import Bench
from speed_models import end_answers
from speed_prompts import ask_pictures, make_questions
from speed_table import Figure, at_least, at_most, make_rows
from speed_timing import Variant, choose_size, take_turns, tell

ALPHAS = tuple(number / 10 for number in range(11))


def measure_sweep(bench: Bench) -> Figure:
    """Eleven strengths of one data set over one plain run at its best batch size."""
    tell("all strengths")
    vlm, amounts, device = bench.vlm, bench.amounts, bench.device
    prompts = ask_pictures(make_questions(amounts.swept), side=bench.shape.side)
    length = amounts.swept_tokens
    delta = find_delta(bench)
    arms = [ours.subtract(delta, alpha=alpha, blocks=bench.steered) for alpha in ALPHAS]
    plain = partial(peers.answer_plainly, vlm, prompts, new_tokens=length)
    own = partial(ours.answer_arms, vlm, prompts, arms, new_tokens=length)
    sizes = [size for size in amounts.sizes if size <= len(prompts)]
    peers.answer_plainly(vlm, prompts[:1], new_tokens=length, size=1)
    size, said = choose_size(lambda size: plain(size=size), sizes, what=PLAIN, device=device)
    rows, own_said = choose_size(
        lambda rows: own(rows=rows, request_size=rows),
        [max(1, sizes[0] // 2), *sizes],
        what="rows of cmrm answer",
        device=device,
    )

    def run_naively(alphas: Sequence[float]) -> ours.Said:
        return [
            peers.answer_steered(
                vlm, prompts, delta=delta, alpha=alpha, blocks=bench.steered, new_tokens=length, size=size
            )[0]
            for alpha in alphas
        ]

    timed = ALPHAS[::5]
    naive = f"{len(ALPHAS)} × {NAIVE}"
    timings = take_turns(
        [
            Variant(name=PLAIN, run=partial(plain, size=size), warm_up=said),
            Variant(
                name=naive,
                run=partial(run_naively, timed),
                times=len(ALPHAS) / len(timed),
                warm_up=partial(run_naively, ALPHAS),
            ),
            Variant(name=OURS, run=partial(own, rows=rows, request_size=rows), warm_up=own_said),
        ],
        turns=bench.turns,
        device=device,
        until=bench.until,
    )
    same = compare_with_references(timings, {OURS: naive})
    return Figure(
        title=f"α = 0, 0.1, …, 1: {len(prompts)} prompts × {len(ALPHAS)} answers of {length} tokens",
        about=f"Peers: {len(timed)} of the {len(ALPHAS)} runs are timed. Best sizes: {size}; cmrm {rows} rows.",
        rows=make_rows(
            timings,
            base=PLAIN,
            limit=limit_of(bench, prompts, [length] * len(prompts), rows=size),
            results=tell_same(same),
        ),
        goals=[
            at_most(
                "11 strengths over one plain run",
                timings[OURS].median / timings[PLAIN].median,
                1.5,
                right=is_right(bench, same, OURS),
            )
        ],
        notes=["The limit is that of one plain run."],
        profiled=partial(own, rows=rows, request_size=rows),
    )


def measure_mixed(bench: Bench) -> Figure:
    """Answers of all lengths over fixed batches of plain generation."""
    tell("mixed lengths")
    vlm, amounts, device = bench.vlm, bench.amounts, bench.device
    prompts = ask_pictures(make_questions(amounts.mixed), side=bench.shape.side)
    length = amounts.mixed_tokens
    end_answers(vlm, one_in=amounts.one_in)
    try:
        plain = partial(peers.answer_plainly, vlm, prompts, new_tokens=length)
        sizes = amounts.sizes[-2:]
        size, said = choose_size(lambda size: plain(size=size), sizes, what=PLAIN, device=device)

        def own(rows: int) -> ours.Said:
            return ours.answer_arms(
                vlm, prompts, [None], new_tokens=length, rows=rows, request_size=max(1, rows // 4)
            )

        own_sizes = [*sizes, 2 * sizes[-1]]
        rows, own_said = choose_size(own, own_sizes, what="rows of cmrm answer", device=device)
        fixed = f"{PLAIN}, fixed batches"
        timings = take_turns(
            [
                Variant(name=fixed, run=partial(plain, size=size), warm_up=said),
                Variant(name=OURS_PLAIN, run=partial(own, rows), warm_up=own_said),
            ],
            turns=bench.turns,
            device=device,
            until=bench.until,
        )
    finally:
        end_answers(vlm, one_in=0)

    def profiled() -> None:
        end_answers(vlm, one_in=amounts.one_in)
        own(rows)
        end_answers(vlm, one_in=0)

    same = compare_with_references(timings, {OURS_PLAIN: fixed})
    lengths = [tokens for _, tokens in timings[fixed].result[0]]
    return Figure(
        title=f"Answers of all lengths: {len(prompts)} prompts, at most {length} tokens",
        about=f"Best sizes: {size}; cmrm {rows} rows. Tokens an answer: {describe(lengths)}.",
        rows=make_rows(
            timings,
            base=OURS_PLAIN,
            limit=limit_of(bench, prompts, lengths, rows=rows),
            results=tell_same(same),
        ),
        goals=[
            at_least(
                "mixed lengths, fixed batches over cmrm",
                timings[fixed].median / timings[OURS_PLAIN].median,
                1.5,
                right=is_right(bench, same, OURS_PLAIN),
            )
        ],
        profiled=profiled,
    )
