"""Answer one batch of prompts, greedily, so that an answer depends on its prompt alone."""

from __future__ import annotations

from collections.abc import Sequence

from cmrm.answering import Answered, Group, answer
from cmrm.answers import Answers
from cmrm.conditions import Prompt
from cmrm.model import VisionLanguageModel
from cmrm.prefix import Prefixes
from cmrm.steering import Intervention, SteeringProof


def generate(
    vlm: VisionLanguageModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    intervention: Intervention | None = None,
    prefixes: Prefixes | None = None,
) -> Answers:
    """Answer a batch of prompts by greedy decoding, at most `max_new_tokens` each, under the intervention if given.

    Sampling is not offered: its random numbers would make an answer depend on who shares the batch (`DESIGN.md` §2).
    """
    (answers,) = generate_ways(
        vlm, prompts, max_new_tokens=max_new_tokens, ways=[intervention], prefixes=prefixes
    )
    return answers


def generate_ways(
    vlm: VisionLanguageModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    ways: Sequence[Intervention | None],
    prefixes: Prefixes | None = None,
) -> list[Answers]:
    """Answer a batch of prompts in several ways in one pass; None among `ways` is the plain one.

    The answers of each way, in the order of `ways`, are those that `generate` gives for it alone.
    """
    group = Group(prompts=prompts, ways=ways)
    rows = max(1, len(prompts))
    answered = answer(vlm, [group], max_new_tokens=max_new_tokens, rows=rows, prefixes=prefixes)
    done = {one.row: one for one in answered}
    ordered = [done[row] for row in range(len(prompts))]
    return [_collect(ordered, number, way) for number, way in enumerate(ways)]


def _collect(answered: Sequence[Answered], number: int, way: Intervention | None) -> Answers:
    answers = tuple(one.answers[number] for one in answered)
    if way is None:
        return Answers(answers=answers, proof=None)
    proof = SteeringProof()
    for block in way.blocks:
        proof.acted[block] = sum(one.acted[number].get(block, 0) for one in answered)
        moved = [one.moved[number].get(block, 0.0) for one in answered]
        asked = [one.asked[number].get(block, 0.0) for one in answered]
        proof.distance[block] = sum(moved) / max(1, len(moved))
        proof.asked[block] = sum(asked) / max(1, len(asked))
        proof.unmoved[block] = sum(
            done == 0 and length != 0 for done, length in zip(moved, asked, strict=True)
        )
    return Answers(answers=answers, proof=proof)
