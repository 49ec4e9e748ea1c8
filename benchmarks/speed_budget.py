"""A time budget: what each figure will take is said beforehand, what does not fit is left out and said so."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import speed_peers as peers
from speed_bench import Amounts, Bench
from speed_device_idle import list_absent
from speed_prompts import ask_pictures, make_questions
from speed_timing import time_once

# Tokens of the answers that a step's seconds are measured on, and prompts of a batch for that.
STEPS, PROMPTS = 9, 4
# Seconds that torch.compile may take.
COMPILING = 60.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """Prompts that are prefilled, decoding passes, and seconds of anything else."""

    prompts: float
    steps: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Load) -> Load:
        return Load(
            prompts=self.prompts + other.prompts,
            steps=self.steps + other.steps,
            seconds=self.seconds + other.seconds,
        )

    def __mul__(self, times: float) -> Load:
        return Load(prompts=self.prompts * times, steps=self.steps * times, seconds=self.seconds * times)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds of a prompt's prefill and of a decoding pass, measured on `generate`."""

    prompt: float
    step: float

    def estimate(self, load: Load) -> float:
        """Seconds that a load takes."""
        return self.prompt * load.prompts + self.step * load.steps + load.seconds


def measure_pace(bench: Bench) -> Pace:
    """Time a batch of prompts with answers of one token and of some more, each after a run that warms up."""
    prompts = ask_pictures(make_questions(PROMPTS), side=bench.shape.side)

    def measure(tokens: int) -> float:
        run = partial(peers.answer_plainly, bench.vlm, prompts, new_tokens=tokens, size=PROMPTS)
        run()
        return time_once(run, bench.device)

    first, longer = measure(1), measure(STEPS)
    return Pace(prompt=first / PROMPTS, step=max(0.0, longer - first) / (STEPS - 1))


def _run(prompts: int, tokens: int, *, size: int) -> Load:
    """Answers to prompts in batches of `size`."""
    return Load(prompts=prompts, steps=-(-prompts // size) * tokens)


def _try_sizes(amounts: Amounts, prompts: int, tokens: int) -> Load:
    sizes = [min(size, prompts) for size in amounts.sizes]
    return sum((_run(prompts, tokens, size=size) for size in sizes), Load(prompts=0))


# What a figure does once, and in each turn; the untimed turn and batch sizes that are tried belong to the first.
Loads = tuple[Load, Load]


def _delta(one: Amounts) -> Loads:
    pairs = Load(prompts=2 * one.peer_pairs)
    own = Load(prompts=2 + one.anchors / 10)
    return pairs * (3 + len(one.sizes)) + own * (2 + len(one.own_sizes)), pairs * 2 + own


def _pictures(one: Amounts) -> Loads:
    return Load(prompts=one.pictures) * (6 + 2 * len(one.sizes)), Load(prompts=one.pictures) * 4


def _dataset(one: Amounts) -> Loads:
    turn = _run(one.batch, one.new_tokens, size=one.batch) * 5
    return turn, turn


def _sample(one: Amounts) -> Loads:
    turn = _run(one.batch, one.new_tokens, size=one.batch) * 4 + Load(prompts=2.5 * one.batch)
    return turn, turn


def _sweep(one: Amounts) -> Loads:
    run = _run(one.swept, one.swept_tokens, size=one.swept)
    once = _try_sizes(one, one.swept, one.swept_tokens)
    return _run(1, one.swept_tokens, size=1) + once * 2.5 + run * 11, run * 5.5


def _arms(one: Amounts) -> Loads:
    run = _run(one.armed, one.swept_tokens, size=one.armed)
    # Seven answers of a prompt are some five runs to the peers, on a quarter of the prompts in the turns.
    return run * 13, run * 8.5


def _mixed(one: Amounts) -> Loads:
    run = _run(one.mixed, one.mixed_tokens, size=one.sizes[-1])
    return run * 6, run * 2


def _defences(one: Amounts) -> Loads:
    run = _run(one.swept, one.swept_tokens, size=one.sizes[-1])
    return run * 22, run * 22


def _idle(one: Amounts) -> Loads:
    if list_absent():
        return Load(prompts=0), Load(prompts=0)
    rows = _run(one.stored, one.new_tokens, size=one.batch)
    return rows * 2, Load(prompts=0)


def _tried(one: Amounts) -> Loads:
    run = _run(one.batch, one.new_tokens, size=one.batch)
    return run * 16 + Load(prompts=0, seconds=COMPILING), run * 8


LOADS: Mapping[str, Callable[[Amounts], Loads]] = MappingProxyType(
    {
        "delta": _delta,
        "pictures": _pictures,
        "dataset": _dataset,
        "sample": _sample,
        "sweep": _sweep,
        "arms": _arms,
        "mixed": _mixed,
        "defences": _defences,
        "idle": _idle,
        "tried": _tried,
    }
)


def estimate_shortest(names: Sequence[str], amounts: Amounts, pace: Pace) -> float:
    """Seconds of these figures in one turn each."""
    return sum(pace.estimate(load) for name in names for load in LOADS[name](amounts))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a figure is expected to take in so many turns; none if even one turn does not fit."""

    seconds: float
    turns: int


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Seconds until `end`, a reading of the monotonic clock; None for no limit."""

    end: float | None

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return float("inf") if self.end is None else self.end - time.monotonic()

    def share(self, parts: int) -> Budget:
        """One of so many equal parts of what is left."""
        return Budget(end=None if self.end is None else time.monotonic() + self.left / parts)

    def plan(self, loads: Loads, pace: Pace, *, turns: int, reserve: float) -> Plan:
        """As many turns, at most `turns`, as leave `reserve` seconds to later figures; one if it fits at all."""
        once, each = map(pace.estimate, loads)
        # What takes no time always fits: it says why it is not measured.
        left = max(0.0, self.left)
        fitting = [count for count in range(1, turns + 1) if once + count * each <= left - reserve]
        chosen = max(fitting, default=int(once + each <= left))
        return Plan(seconds=once + (chosen or 1) * each, turns=chosen)


def halve(amounts: Amounts) -> Amounts | None:
    """Half as many prompts in every batch, after the device ran out of memory; None if there is nothing to halve."""
    names = ("pictures", "batch", "swept", "armed", "mixed")
    smaller = {name: max(1, getattr(amounts, name) // 2) for name in names}
    sizes = {
        name: tuple(sorted({max(1, size // 2) for size in getattr(amounts, name)}))
        for name in ("sizes", "own_sizes")
    }
    made = replace(amounts, **smaller, **sizes)
    return None if made == amounts else made
