"""Figures on extracting hidden states: Δ from many anchors, and states of samples with their own images."""

from __future__ import annotations

from functools import partial

import speed_cmrm_calls as ours
import speed_peers as peers
import torch
from speed_bench import Bench, compare_states, find_lengths
from speed_prompts import ask_blank, ask_pictures, ask_text, make_questions
from speed_table import Figure, Goal, Row, at_least, make_rows
from speed_timing import Variant, choose_size, take_turns, tell

from cmrm.models.vlm import render
from cmrm.prefix.cache import PromptBatch
from cmrm.steering.capture import read_batch

ALONE = "one at a time, output_hidden_states"
BATCHED = "batched, output_hidden_states"
NNSIGHT = "nnsight, batched"
OURS = "cmrm"
# How far states may be apart for the order of additions alone; in half precision, twice what two batch sizes differ by.
TOLERANCE = 1e-4


def measure_delta(bench: Bench) -> Figure:
    """Δ from anchors: the image prompt and the text prompt of each."""
    tell("Δ from anchors")
    vlm, amounts, device = bench.vlm, bench.amounts, bench.device
    questions = make_questions(amounts.anchors)
    blank, text = ask_blank(questions, side=bench.shape.side), ask_text(questions)
    few = slice(amounts.peer_pairs)
    theirs = partial(peers.measure_shift, vlm, blank[few], text[few])
    own = partial(ours.measure_shift, vlm, blank, text)
    theirs(size=1)
    size, batched = choose_size(lambda size: theirs(size=size), amounts.sizes, what=BATCHED, device=device)
    own_size, _ = choose_size(lambda size: own(size=size), amounts.own_sizes, what=OURS, device=device)
    times = amounts.anchors / amounts.peer_pairs
    variants = [
        Variant(name=ALONE, run=partial(theirs, size=1), times=times),
        Variant(name=BATCHED, run=partial(theirs, size=size), times=times, warm_up=batched),
        Variant(
            name=OURS,
            run=partial(own, size=own_size),
            warm_up=partial(ours.measure_shift, vlm, blank[few], text[few], size=own_size),
        ),
    ]
    unknown = []
    if peers.has_nnsight():
        run = partial(peers.measure_shift, vlm, blank[few], text[few], size=size, read=peers.trace_states)
        variants.insert(2, Variant(name=NNSIGHT, run=run, times=times))
    else:
        unknown.append(Row(name=NNSIGHT, seconds=None, result="not installed"))
    timings = take_turns(variants, turns=bench.turns, device=device, until=bench.until)
    wanted = timings[ALONE].result[:-1]
    apart = {name: compare_states(timing.result[:-1], wanted) for name, timing in timings.items()}
    right = apart[OURS] <= max(TOLERANCE, 2 * apart[BATCHED])
    return Figure(
        title=f"Δ from {amounts.anchors} anchors, blank and text",
        about=f"Peers are timed on {amounts.peer_pairs} anchors, times {times:g}. Best sizes: {size}; cmrm {own_size}.",
        rows=[
            *make_rows(
                timings, base=OURS, limit=_shared_limit(bench, blank, text), results=_tell_distances(apart)
            ),
            *unknown,
        ],
        goals=[
            at_least(f"Δ, {against}", timings[name].median / timings[OURS].median, goal, right=right)
            for against, name, goal in (
                ("one at a time over cmrm", ALONE, 21),
                ("best batch over cmrm", BATCHED, 20),
            )
        ],
        notes=[
            "The limit, at the measured matrix throughput: each prefix and the image once; the rest of every prompt, "
            "of the last block the keys and values of all tokens, and the rest for one."
        ],
        profiled=partial(own, size=own_size),
    )


def measure_pictures(bench: Bench) -> Figure:
    """States of samples with their own images, where no more than the system line is shared."""
    tell("states of own images")
    vlm, amounts, device = bench.vlm, bench.amounts, bench.device
    prompts = ask_pictures(make_questions(amounts.pictures), side=bench.shape.side)
    sizes = [size for size in amounts.sizes if size <= len(prompts)] or [len(prompts)]
    peers.read_states(vlm, prompts[:1], size=1)
    size, batched = choose_size(
        lambda size: peers.read_states(vlm, prompts, size=size), sizes, what=BATCHED, device=device
    )
    own_size, own = choose_size(
        lambda size: ours.read_states(vlm, prompts, size=size), [1, *sizes], what=OURS, device=device
    )
    rendered = [render(vlm, batch) for batch in ours.cut(prompts, own_size)]

    @torch.inference_mode()
    def read_rendered() -> torch.Tensor:
        blocks = range(len(vlm.blocks))
        batches = [PromptBatch(inputs=inputs) for inputs in rendered]
        return torch.cat([read_batch(vlm, batch, blocks=blocks) for batch in batches]).cpu()

    prefetched = f"{OURS}, prompts prefetched"
    timings = take_turns(
        [
            Variant(name=ALONE, run=partial(peers.read_states, vlm, prompts, size=1)),
            Variant(name=BATCHED, run=partial(peers.read_states, vlm, prompts, size=size), warm_up=batched),
            Variant(name=OURS, run=partial(ours.read_states, vlm, prompts, size=own_size), warm_up=own),
            Variant(name=prefetched, run=read_rendered),
        ],
        turns=bench.turns,
        device=device,
        until=bench.until,
    )
    wanted = timings[ALONE].result[:, :-1]
    apart = {name: compare_states(timing.result[:, :-1], wanted) for name, timing in timings.items()}
    right = max(apart[OURS], apart[prefetched]) <= max(TOLERANCE, 2 * apart[BATCHED])
    _, lengths = find_lengths(vlm, prompts)
    operations = sum(map(bench.work.states, lengths)) + len(prompts) * bench.work.image()
    limit = operations / bench.limits.operations
    reached = limit / timings[prefetched].median
    goal = Goal(
        name="own-image states, share of the matrix limit",
        goal="≥ 85 %",
        figure=f"{reached:.0%}",
        reached="yes" if reached >= 0.85 and right else "no",
    )
    return Figure(
        title=f"States of {len(prompts)} samples with their own images",
        about=f"Best sizes: {size}; cmrm {own_size}. {operations / len(prompts) / 1e9:.1f} GFLOP a prompt.",
        rows=make_rows(timings, base=OURS, limit=limit, results=_tell_distances(apart)),
        goals=[goal],
        notes=[
            "The limit, at the measured matrix throughput: the tower, all blocks but the last, and of that one the "
            "keys and values of all tokens, and the rest for one."
        ],
        profiled=read_rendered,
    )


def _shared_limit(bench: Bench, blank: list, text: list) -> float:
    """Seconds at the matrix limit if every shared prefix is prefilled once, and no more is run than states need."""
    few = 16
    operations = bench.work.image()
    for arm in (blank, text):
        shared, lengths = find_lengths(bench.vlm, arm[:few])
        ends = sum(bench.work.states(length - shared, seen=shared) for length in lengths)
        operations += bench.work.prompt(shared) + ends * len(arm) / len(lengths)
    return operations / bench.limits.operations


def _tell_distances(apart: dict[str, float]) -> dict[str, str]:
    return {
        name: "the reference" if name == ALONE else f"{distance:.0e} apart"
        for name, distance in apart.items()
    }
