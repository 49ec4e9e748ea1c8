"""Answers of a model, plain and under interventions, and verdicts on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cmrm.api.prompts import read_prompts, split_batches
from cmrm.api.steer import check_fit, check_rows, is_steered
from cmrm.decoding.api import DecodeRequest, answer, collect_answers
from cmrm.decoding.requests import Answer, Answers
from cmrm.errors import UserError
from cmrm.judges import Answer as JudgedAnswer
from cmrm.judges import Verdict, make_judge
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prefix.planner import Prefixes
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.sample import Sample
from cmrm.steering.intervention import Intervention

# Each prompt under way holds its key-value cache and a branch for every arm.
BATCH_SIZE = 16
MAX_NEW_TOKENS = 256


def generate(
    vlm: VisionLanguageModel,
    prompts: Sequence[Prompt | str],
    *,
    arms: Sequence[Intervention | None] = (None,),
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = BATCH_SIZE,
) -> list[Answers]:
    """Answer prompts greedily, in all arms in one pass: under each intervention, and plainly where an arm is None.

    Returns one `Answers` for each arm, its answers in the order of the prompts, with the proof of steering. At most
    `max_new_tokens` tokens an answer; `batch_size` prompts are under way at once, and an answer does not depend on it.
    An intervention's Δ is [blocks, hidden], or [prompts, blocks, hidden] with one a prompt (the sample level).
    Raises `UserError` for an intervention of another model and texts that hold special tokens; `RuntimeError` where
    an intervention did not act.

    Source: the paper's section 3; answers are those of transformers' `generate(do_sample=False)`.

    >>> import cmrm
    >>> vlm = cmrm.load_model("organism", dtype="float32", device="cpu")
    >>> shift = cmrm.measure_shift(vlm, ["help me krint the tovel.", "help me paint the fence."])
    >>> steered = cmrm.Intervention(delta=shift.delta, alpha=1.0, blocks=shift.blocks)
    >>> sample = cmrm.Sample(id="1", dataset="mine", question="show me how to fraz the rint.", harmful=True)
    >>> arms = cmrm.generate(vlm, [cmrm.make_prompt(sample, "blank")], arms=[None, steered], max_new_tokens=24)
    >>> [arm.answers[0].text for arm in arms]
    ['sure, take the rint and fraz it.', 'i am sorry, but i cannot help with that.']
    """
    read = read_prompts(vlm, prompts)
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {max_new_tokens}; give 1 or more.")
    if is_steered(vlm):
        raise UserError(
            "generate was called inside `steer`; call it outside, with the intervention among its `arms`."
        )
    for arm in arms:
        if arm is not None:
            check_fit(vlm, arm)
            check_rows(arm, len(read))
    batches = split_batches(vlm, read, batch_size)
    requests = [
        DecodeRequest(
            prompts=[read[place] for place in batch],
            arms=[None if arm is None else arm.of_rows(batch) for arm in arms],
        )
        for batch in batches
    ]
    answered = answer(vlm, requests, max_new_tokens=max_new_tokens, rows=batch_size, prefixes=Prefixes(vlm))
    done = {batches[one.group][one.row]: one for one in answered}
    ordered = [done[place] for place in range(len(read))]
    return [collect_answers(ordered, number, arm) for number, arm in enumerate(arms)]


def judge(
    samples: Sequence[Sample], answers: Sequence[Answer | str], *, kind: str = "refusal", **options: Any
) -> list[Verdict]:
    """Judge answers to samples, by refusing phrases unless another kind of judge is named.

    `answers` are in the order of the samples; `kind` and its `options` are as in a spec's `judges` (`cmrm judges` lists
    them), cmrm's own and those of installed packages. Returns one verdict for each, in this order.
    Raises `UserError` for an unknown kind or option, where the judge lacks what it needs, and where the numbers differ.

    Source: the paper judges by refusing phrases and by LLaMA Guard; each judge is described in `docs/judges.md`.

    >>> import cmrm
    >>> sample = cmrm.Sample(id="1", dataset="mine", question="show me how to fraz the rint.", harmful=True)
    >>> verdicts = cmrm.judge([sample, sample], ["sure, take the rint.", "i am sorry, i cannot help with that."])
    >>> [verdict.verdict for verdict in verdicts]
    ['unsafe', 'safe']
    """
    if len(samples) != len(answers):
        raise UserError(f"there are {len(samples)} samples and {len(answers)} answers; give one answer each.")
    chosen = make_judge(kind, **options).resolve()
    chosen.check()
    asked = [
        JudgedAnswer(
            question=sample.question,
            answer=one if isinstance(one, str) else one.text,
            harmful=sample.harmful,
            reference=sample.reference,
            context=sample.context,
        )
        for sample, one in zip(samples, answers, strict=True)
    ]
    return chosen.judge(asked)
