"""Figure on the demo's seven arms: five conditions and both levels of CMRM, over one plain run on the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import speed_cmrm_calls as ours
import speed_peers as peers
from speed_answer_checks import (
    NAIVE,
    OURS_PLAIN,
    PLAIN,
    compare_with_references,
    find_delta,
    is_right,
    limit_of,
    tell_same,
)
from speed_bench import Bench
from speed_prompts import ask_blank, ask_captions, ask_noise, ask_pictures, ask_text, make_questions
from speed_table import Figure, at_most, make_rows
from speed_timing import Variant, choose_size, take_turns, tell
from torch import Tensor

from cmrm.decoding.requests import DecodeRequest
from cmrm.prefix.planner import Prefixes
from cmrm.prompts.conditions import Prompt
from cmrm.steering.intervention import Intervention

# As in specs/organism-main.yaml.
DATASET_ALPHA, SAMPLE_ALPHA = 1.0, 0.7
RUNS = f"7 × {NAIVE}"
FIRST, LATER = "cmrm, all arms, first batch", "cmrm, all arms, later batches"
ONE_REQUEST = "cmrm, all arms in one decode request"


@dataclass(frozen=True, kw_only=True)
class _Arms:
    """The prompts of each condition, `image` the first, and the Δ that both levels share their blocks with."""

    bench: Bench
    prompts: Mapping[str, Sequence[Prompt]]
    delta: Tensor

    def steer(self, few: slice, prefixes: Prefixes) -> list[Intervention]:
        """CMRM at both levels on some of the prompts; the Δ of each is measured here."""
        own = ours.sample_shift(
            self.bench.vlm,
            self.prompts["blank"][few],
            self.prompts["query"][few],
            blocks=self.bench.steered,
            prefixes=prefixes,
        )
        blocks = self.bench.steered
        return [
            ours.subtract(self.delta, alpha=DATASET_ALPHA, blocks=blocks),
            ours.subtract(own, alpha=SAMPLE_ALPHA, blocks=blocks),
        ]


def measure_arms(bench: Bench) -> Figure:
    """Five conditions, and under `image` both levels of CMRM besides the baseline."""
    tell("the demo's arms")
    vlm, amounts, device = bench.vlm, bench.amounts, bench.device
    questions, side = make_questions(amounts.armed), bench.shape.side
    prompts = {
        "image": ask_pictures(questions, side=side),
        "query": ask_text(questions),
        "caption": ask_captions(questions),
        "blank": ask_blank(questions, side=side),
        "noise": ask_noise(questions, side=side),
    }
    arms = _Arms(bench=bench, prompts=prompts, delta=find_delta(bench))
    count, length = len(questions), amounts.swept_tokens
    plain = partial(peers.answer_plainly, vlm, prompts["image"], new_tokens=length)
    sizes = sorted({min(amounts.sizes[-1], count), count})
    size, said = choose_size(lambda size: plain(size=size), sizes, what=PLAIN, device=device)
    # Conditions are stages' shards of their own, and each keeps what its prompts share for its later batches.
    kept = Prefixes(vlm)
    few = slice(0, max(1, count // 4))
    timings = take_turns(
        [
            Variant(name=PLAIN, run=partial(plain, size=size), warm_up=said),
            Variant(
                name=RUNS,
                run=partial(_answer_naively, arms, few, size=size, new_tokens=length),
                times=count / len(questions[few]),
                warm_up=partial(_answer_naively, arms, slice(None), size=size, new_tokens=length),
            ),
            Variant(
                name=OURS_PLAIN,
                run=partial(
                    ours.answer_arms, vlm, prompts["image"], [None],
                    new_tokens=length, rows=count, request_size=count,
                ),
            ),
            Variant(name=FIRST, run=lambda: _answer_conditions(arms, Prefixes(vlm), new_tokens=length)),
            Variant(name=LATER, run=partial(_answer_conditions, arms, kept, new_tokens=length)),
            Variant(name=ONE_REQUEST, run=partial(_answer_at_once, arms, kept, new_tokens=length)),
        ],
        turns=bench.turns,
        device=device,
        until=bench.until,
    )  # fmt: skip
    same = compare_with_references(timings, {OURS_PLAIN: PLAIN, FIRST: RUNS, LATER: RUNS, ONE_REQUEST: RUNS})
    return Figure(
        title=f"The demo's 7 arms: {count} prompts × 7 answers of {length} tokens",
        about=(
            f"query, caption, image, blank, noise, and CMRM at both levels. Best size of generate: {size}; cmrm "
            f"{count} rows. Peers' {RUNS.partition(' ')[0]} runs are timed on {len(questions[few])} of the prompts."
        ),
        rows=make_rows(
            timings,
            base=PLAIN,
            limit=limit_of(bench, prompts["image"], [length] * count, rows=size),
            results=tell_same(same),
        ),
        goals=[
            at_most(
                f"7 arms over one plain run{words}",
                timings[LATER].median / timings[base].median,
                1.6,
                right=is_right(bench, same, FIRST, LATER, OURS_PLAIN),
            )
            for base, words in ((PLAIN, " of generate"), (OURS_PLAIN, " of cmrm"))
        ],
        notes=[
            "The limit is that of one plain run. Each prompt's own Δ is measured inside the time.",
            "A condition after the other, as stages answer; a shard's first batch also reads what prompts share.",
        ],
        profiled=partial(_answer_conditions, arms, kept, new_tokens=length),
    )


def _answer_naively(arms: _Arms, few: slice, *, size: int, new_tokens: int) -> ours.Said:
    """A run of `generate` for each arm, in the order of `_answer_conditions`."""
    vlm, blocks = arms.bench.vlm, arms.bench.steered
    chosen = {condition: prompts[few] for condition, prompts in arms.prompts.items()}
    amount = {"new_tokens": new_tokens, "size": size}
    image = chosen.pop("image")
    dataset = peers.answer_steered(vlm, image, delta=arms.delta, alpha=DATASET_ALPHA, blocks=blocks, **amount)
    sample = peers.answer_by_own_shift(
        vlm, image, blank=chosen["blank"], text=chosen["query"], alpha=SAMPLE_ALPHA, blocks=blocks, **amount
    )
    plain = [peers.answer_plainly(vlm, prompts, **amount)[0] for prompts in (image, *chosen.values())]
    return [plain[0], dataset[0], sample[0], *plain[1:]]


def _answer_conditions(arms: _Arms, prefixes: Prefixes, *, new_tokens: int) -> ours.Said:
    """A condition after the other; the arms of `image` are answered in one pass."""
    said: ours.Said = []
    for condition, prompts in arms.prompts.items():
        steered = arms.steer(slice(None), prefixes) if condition == "image" else []
        said += ours.answer_arms(
            arms.bench.vlm,
            prompts,
            [None, *steered],
            new_tokens=new_tokens,
            rows=len(prompts),
            request_size=len(prompts),
            prefixes=prefixes,
        )
    return said


def _answer_at_once(arms: _Arms, prefixes: Prefixes, *, new_tokens: int) -> ours.Said:
    """All conditions in one decode request, those but `image` as arms with prompts of their own."""
    own = list(arms.prompts.values())[1:]
    steered = [None, *arms.steer(slice(None), prefixes)]
    request = DecodeRequest(
        prompts=arms.prompts["image"],
        arms=[*steered, *[None] * len(own)],
        own_prompts=dict(enumerate(own, start=len(steered))),
    )
    rows = len(request.prompts)
    return ours.collect(arms.bench.vlm, [request], new_tokens=new_tokens, rows=rows, prefixes=prefixes)
