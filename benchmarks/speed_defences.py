"""Figures on defences as arms: all together over one plain run, and over the sum of each alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import speed_cmrm_calls as ours
import torch
from speed_answer_checks import OURS_PLAIN, compare_with_references, find_delta, is_right, limit_of, tell_same
from speed_bench import Bench
from speed_prompts import ask_pictures, make_questions
from speed_table import Figure, at_most, make_rows
from speed_timing import Variant, take_turns, tell

from cmrm.decoding.requests import DecodeRequest
from cmrm.defences.random_shift import rotate
from cmrm.prefix.planner import Prefixes
from cmrm.prompts.conditions import Prompt
from cmrm.steering.intervention import Intervention, Steering, list_parts, needs_own_prefill
from cmrm.steering.projection import Projection

KEPT = "cmrm answer, defences that keep the prompt, together"
ALL = "cmrm answer, all defences together"
ALONE = "cmrm answer, each defence alone"


@dataclass(frozen=True, kw_only=True)
class _Arm:
    """A defence: what it changes states by, the text before the question, and how far logits are mixed."""

    steering: Steering | None = None
    before: str = ""
    contrast: float | None = field(default=None)


def measure_defences(bench: Bench) -> Figure:
    """The arms of specs/organism-defences.yaml on one data set."""
    tell("defences")
    amounts = bench.amounts
    prompts = ask_pictures(make_questions(amounts.swept), side=bench.shape.side)
    length, rows = amounts.swept_tokens, amounts.sizes[-1]
    arms = _make_arms(bench)
    kept = [arm for arm in arms if not arm.before]

    def run(chosen: Sequence[_Arm]) -> ours.Said:
        return _answer(bench, prompts, chosen, new_tokens=length, rows=rows)

    def run_alone() -> ours.Said:
        return [said for arm in arms for said in run([arm])]

    timings = take_turns(
        [
            Variant(name=OURS_PLAIN, run=partial(run, [_Arm()])),
            Variant(name=KEPT, run=partial(run, kept)),
            Variant(name=ALL, run=partial(run, arms)),
            Variant(name=ALONE, run=run_alone),
        ],
        turns=bench.turns,
        device=bench.device,
        until=bench.until,
    )
    same = compare_with_references(timings, {ALL: ALONE})
    return Figure(
        title=f"Defences: {len(prompts)} prompts × {len(arms)} answers of {length} tokens",
        about=f"{len(kept)} of the {len(arms)} defences keep the prompt; {rows} rows.",
        rows=make_rows(
            timings,
            base=OURS_PLAIN,
            limit=limit_of(bench, prompts, [length] * len(prompts), rows=rows),
            results=tell_same(same),
        ),
        goals=[
            at_most(
                "defences that keep the prompt over one plain run",
                timings[KEPT].median / timings[OURS_PLAIN].median,
                2.0,
                right=is_right(bench, same, ALL),
            ),
            at_most(
                "all defences together over each alone",
                timings[ALL].median / timings[ALONE].median,
                0.6,
                right=is_right(bench, same, ALL),
            ),
        ],
        notes=[
            "The limit is that of one plain run.",
            f"Defences that keep the prompt need at least {_count_prefills(bench, kept):.2f} prefills of a plain run: "
            "one that changes the prompt's states from a block on has all blocks after it to run again.",
        ],
        profiled=partial(run, arms),
    )


def _count_prefills(bench: Bench, arms: Sequence[_Arm]) -> float:
    """The prefills that arms cannot do without, in those of a plain run: all blocks once, and what differs."""
    count = len(bench.vlm.blocks)
    firsts = [
        min(part.blocks)
        for arm in arms
        for part in list_parts(arm.steering)
        if needs_own_prefill(arm.steering)
    ]
    return 1 + sum((count - 1 - first) / count for first in firsts)


def _make_arms(bench: Bench) -> list[_Arm]:
    delta, blocks = find_delta(bench), bench.steered
    every = tuple(range(len(bench.vlm.blocks)))
    drawn = torch.randn(len(every), bench.vlm.hidden_size, 4, generator=torch.Generator().manual_seed(0))
    directions = torch.linalg.qr(drawn).Q.transpose(1, 2).contiguous()
    cmrm = Intervention(delta=delta, alpha=1.0, blocks=blocks)
    middle = (len(every) // 2,)
    return [
        _Arm(steering=cmrm),
        *(_Arm(steering=replace(cmrm, delta=rotate(delta, seed=seed).to(delta.device))) for seed in (1, 2)),
        _Arm(
            steering=Intervention(
                delta=directions[middle[0], :1], alpha=1.0, blocks=middle, scope="every_position"
            )
        ),
        _Arm(steering=Projection(directions=directions[:, :1], blocks=every)),
        _Arm(steering=Projection(directions=directions, blocks=every)),
        _Arm(
            steering=Projection(
                directions=directions[middle[0] :][:1, :1],
                blocks=middle,
                gate="relu",
                sign=-1,
                scope="prefill",
            )
        ),
        _Arm(before="Please be safe. "),
        _Arm(before="Please be safe. ", contrast=1.0),
        _Arm(steering=cmrm, before="Please be safe. "),
    ]


def _answer(
    bench: Bench, prompts: Sequence[Prompt], arms: Sequence[_Arm], *, new_tokens: int, rows: int
) -> ours.Said:
    requests = [
        DecodeRequest(
            prompts=batch,
            arms=[arm.steering for arm in arms],
            own_prompts={
                number: [replace(prompt, text=arm.before + prompt.text) for prompt in batch]
                for number, arm in enumerate(arms)
                if arm.before
            },
            contrasts={number: arm.contrast for number, arm in enumerate(arms) if arm.contrast is not None},
        )
        for batch in ours.cut(prompts, max(1, rows // 4))
    ]
    return ours.collect(bench.vlm, requests, new_tokens=new_tokens, rows=rows, prefixes=Prefixes(bench.vlm))
