"""Exactness: cmrm's states and answers, plain and steered, against plain transformers with a naive hook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cmrm.decoding.api import generate_arms
from cmrm.decoding.hf_generate import generate_apart
from cmrm.decoding.requests import Answers
from cmrm.prefix.planner import Prefixes
from cmrm.steering.capture import embed
from cmrm.steering.hooks import embed_steered
from cmrm.steering.intervention import Intervention
from cmrm.steering.shift import measure_sample_shift
from on_a_gpu import naive
from on_a_gpu.checks import Evidence, Table
from on_a_gpu.subject import Subject

# In half precision rounding changes a word now and then between any two batch sizes.
ALIKE = 0.9
BATCHED = "transformers, in one batch"


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
    answers = _compare_answers(subject, steered)
    noise, asked = states[BATCHED], len(subject.pictured)
    allowed = naive.choose_allowed(subject.dtype, noise)
    share = 1.0 if subject.dtype == torch.float32 else ALIKE
    own = {name: same for name, same in answers.items() if name != BATCHED}
    wrong = [
        f"{name}: {apart:.1e} apart, and {allowed:.1e} is allowed"
        for name, apart in states.items()
        if not apart <= allowed
    ]
    if sum(own.values()) < share * asked * len(own):
        wrong += [
            f"{name}: {same} of {asked} answers are the same" for name, same in own.items() if same < asked
        ]
    return Evidence(
        line=(
            f"states at most {max(apart for name, apart in states.items() if name != BATCHED):.1e} apart "
            f"(transformers' own in two batch sizes {noise:.1e}), "
            f"{sum(own.values())} of {asked * len(own)} answers the same"
        ),
        figures={"states_apart": states, "allowed": allowed, "answers_same": answers, "answers_each": asked},
        tables=[
            Table(
                title=f"States of {asked} prompts at all blocks",
                cells=[["states", "distance"], *([name, f"{apart:.1e}"] for name, apart in states.items())],
                right=(1,),
                notes=[
                    "The largest relative distance to those that a naive forward hook reads, one prompt at a time. "
                    f"Allowed: {allowed:.1e}."
                ],
            ),
            Table(
                title=f"Answers of {subject.sizes.new_tokens} tokens",
                cells=[
                    ["answers", "the same"],
                    *([name, f"{same} of {asked}"] for name, same in answers.items()),
                ],
                right=(1,),
                notes=[
                    f"As those of `generate`, one prompt at a time. Demanded of cmrm: {share:.0%} of all."
                ],
            ),
        ],
        wrong=wrong,
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


def _compare_answers(subject: Subject, steered: Steered) -> dict[str, int]:
    """How many answers of each kind are those of the naive reference."""
    vlm, prompts, tokens = subject.vlm, subject.pictured, subject.sizes.new_tokens
    plain = naive.answer(vlm, prompts, new_tokens=tokens)
    moved = naive.answer(vlm, prompts, new_tokens=tokens, subtract=steered.vectors)
    batched = naive.answer(vlm, prompts, new_tokens=tokens, size=len(prompts))
    arms = generate_arms(vlm, prompts, max_new_tokens=tokens, arms=[None, steered.intervention])
    apart = generate_apart(vlm, prompts, max_new_tokens=tokens, intervention=steered.intervention)
    return {
        BATCHED: naive.count_equal(batched, plain),
        "cmrm, plain": naive.count_equal(_list_texts(arms[0]), plain),
        "cmrm, steered, both arms in one pass": naive.count_equal(_list_texts(arms[1]), moved),
        "cmrm, steered, by transformers' generate": naive.count_equal(_list_texts(apart), moved),
    }


def _list_texts(answers: Answers) -> Sequence[str]:
    return [one.text for one in answers.answers]
