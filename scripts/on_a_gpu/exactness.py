"""Exactness: cmrm's states and answers, plain and steered, against plain transformers with a naive hook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from cmrm.prefix.planner import Prefixes
from cmrm.steering.capture import embed
from cmrm.steering.hooks import embed_steered
from cmrm.steering.intervention import Intervention
from cmrm.steering.shift import measure_sample_shift
from on_a_gpu import naive
from on_a_gpu.answers import BATCHED, TIMES, Compared, compare_answers
from on_a_gpu.checks import Evidence, Table
from on_a_gpu.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Steered:
    """Δ at the steered blocks, float32 [blocks, hidden], measured by the naive hook, and as both sides subtract it."""

    delta: Tensor
    blocks: tuple[int, ...]

    @property
    def vectors(self) -> Mapping[int, Tensor]:
        """What the naive hook subtracts at each block."""
        return dict(zip(self.blocks, self.delta, strict=True))

    @property
    def intervention(self) -> Intervention:
        """The same for cmrm: every block by itself."""
        return Intervention(delta=self.delta, alpha=1.0, blocks=self.blocks, composition="direct")


def check_exactness(subject: Subject) -> Evidence:
    """Compare states of all blocks, the law of exactness, and greedy answers."""
    text = naive.read_states(subject.vlm, subject.text)
    shift = (naive.read_states(subject.vlm, subject.blank) - text).mean(dim=0)
    steered = Steered(delta=shift[list(subject.steered)], blocks=subject.steered)
    states = _compare_states(subject, text, steered)
    answers = compare_answers(subject, steered.vectors, steered.intervention)
    noise, asked = states[BATCHED], len(subject.pictured)
    allowed = naive.choose_allowed(subject.dtype, noise)
    own = {name: one for name, one in answers.items() if name != BATCHED}
    same, gap = sum(one.same for one in own.values()), max(one.gap for one in own.values())
    wrong = [
        f"{name}: {apart:.1e} apart, and {allowed:.1e} is allowed"
        for name, apart in states.items()
        if not apart <= allowed
    ]
    wrong += [
        f"{name}: a word is {one.gap:.1e} deviations below the best, and {TIMES * allowed:.1e} is allowed"
        for name, one in own.items()
        if not one.gap <= TIMES * allowed
    ]
    return Evidence(
        line=(
            f"states at most {max(apart for name, apart in states.items() if name != BATCHED):.1e} apart "
            f"(transformers' own in two batch sizes {noise:.1e}), "
            f"{same} of {asked * len(own)} answers the same, words at most {gap:.1e} deviations below the best"
        ),
        figures={
            "states_apart": states,
            "allowed": allowed,
            "answers_same": {name: one.same for name, one in answers.items()},
            "answers_gap": {name: one.gap for name, one in answers.items()},
            "answers_each": asked,
        },
        tables=[_tabulate_states(subject, states, allowed), _tabulate_answers(subject, answers, allowed)],
        wrong=wrong,
    )


def _tabulate_states(subject: Subject, states: Mapping[str, float], allowed: float) -> Table:
    return Table(
        title=f"States of {len(subject.pictured)} prompts at all blocks",
        cells=[["states", "distance"], *([name, f"{apart:.1e}"] for name, apart in states.items())],
        right=(1,),
        notes=[
            "The largest relative distance to those that a naive forward hook reads, one prompt at a time. "
            f"Allowed: {allowed:.1e}."
        ],
    )


def _tabulate_answers(subject: Subject, answers: Mapping[str, Compared], allowed: float) -> Table:
    asked = len(subject.pictured)
    return Table(
        title=f"Answers of {subject.sizes.new_tokens} tokens",
        cells=[
            ["answers", "the same", "below the best"],
            *([name, f"{one.same} of {asked}", f"{one.gap:.1e}"] for name, one in answers.items()),
        ],
        right=(1, 2),
        notes=[
            "The same as those of `generate` under the hook, one prompt at a time. Below the best: how far the logit "
            "of any word is below the best one where the hook is on and the whole answer is read, in standard "
            f"deviations of a step's logits. Allowed: {TIMES * allowed:.1e}."
        ],
    )


def _compare_states(subject: Subject, text: Tensor, steered: Steered) -> dict[str, float]:
    """The largest relative distance of each kind of states; `text` are those of the text prompts."""
    vlm, blocks, prefixes = subject.vlm, subject.blocks, Prefixes(subject.vlm)
    pictured = naive.read_states(vlm, subject.pictured)
    plain = embed(vlm, subject.pictured, blocks=blocks, prefixes=prefixes)
    questions = embed(vlm, subject.text, blocks=blocks, prefixes=prefixes)
    moved = embed_steered(vlm, subject.pictured, blocks=blocks, intervention=steered.intervention)
    middle = subject.steered[0]
    delta = measure_sample_shift(
        vlm, with_image=subject.blank, text_only=subject.text, blocks=[middle], prefixes=prefixes
    )
    undone = embed_steered(
        vlm,
        subject.blank,
        blocks=[middle],
        intervention=Intervention(delta=delta, alpha=1.0, blocks=(middle,)),
    )
    wanted = naive.read_states(vlm, subject.pictured, subtract=steered.vectors)
    return {
        BATCHED: naive.measure_distance(
            naive.read_states(vlm, subject.pictured, size=len(subject.pictured)), pictured
        ),
        "cmrm, with images": naive.measure_distance(plain, pictured),
        "cmrm, text alone": naive.measure_distance(questions, text),
        f"cmrm, steered at blocks {', '.join(map(str, steered.blocks))}": naive.measure_distance(
            moved, wanted
        ),
        f"cmrm, blank image less its own Δ at block {middle}, to text alone": naive.measure_distance(
            undone, text[:, [middle]]
        ),
    }
