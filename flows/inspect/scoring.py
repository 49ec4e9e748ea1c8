"""Score an Inspect sample by a judge: what the judge is given, and what becomes of its verdict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inspect_ai.model import ContentReasoning
from inspect_ai.scorer import Score, Scorer, Target
from inspect_ai.solver import TaskState

from cmrm.errors import UserError
from cmrm.judges import Answer, Verdict
from cmrm.untrusted.printable import show_value
from flows.inspect.errors import telling_inspect
from flows.inspect.images import find_image
from flows.inspect.judging import JudgeQueue, find_queue
from flows.inspect.scores import to_score
from flows.spec.judge_fields import read_judge_list
from storage.records.hashing import canonical_json
from tasks.judge.loaded import JudgeUse, check_judge, resolve_judge
from tasks.judge.stage import NO_FINAL


def read_use(kind: str, options: Mapping[str, Any]) -> JudgeUse:
    """Check a judge and its options, and pin its model's revision, without loading it.

    Raises `UserError` for an unknown kind or option, a missing requirement, and a judge of questions without answers.
    """
    (use,) = read_judge_list([{"kind": kind, **options}], folder=Path.cwd(), where=f"judge {kind!r}")
    if "answer" not in use.subjects:
        raise UserError(
            f"judge {kind!r} judges questions alone, and a scorer is given answers; choose another."
        )
    use = resolve_judge(use)
    check_judge(use)
    return use


def make_scorer(kind: str, options: Mapping[str, Any]) -> Scorer:
    """Make the scorer of a judge; what it has to know of a sample it takes from the sample's metadata and target.

    These are `harmful` (true where a sample does not say) and `question` (else the input's text); the target is the
    reference answer. Raises Inspect's `PrerequisiteError` as `read_use` raises `UserError`.
    """
    with telling_inspect():
        queue = find_queue(read_use(kind, options))

    async def score(state: TaskState, target: Target) -> Score:
        harmful = _is_harmful(state)
        text = _find_text(state, queue)
        if text is None:
            verdict = Verdict(verdict="not_applicable", raw=NO_FINAL)
        else:
            verdict = await queue.ask(_to_answer(state, target, queue, text))
        return to_score(
            verdict,
            judge=queue.judge.name,
            harmful=harmful,
            answer=state.output.completion,
            stop_reason=None if state.output.empty else state.output.stop_reason,
        )

    return score


def _is_harmful(state: TaskState) -> bool:
    harmful = state.metadata.get("harmful", True)
    if not isinstance(harmful, bool):
        raise UserError(
            f"sample {show_value(state.sample_id)}: metadata.harmful is {show_value(harmful)}; give true or false."
        )
    return harmful


def _find_text(state: TaskState, queue: JudgeQueue) -> str | None:
    """Find the final answer; None for one that ended within its reasoning, where the judge needs an answer.

    As in a run, such an answer is wrong by a judge that has a reference, and in no rate by another.
    """
    text = state.output.completion
    if text or "reference" in queue.judge.reads or state.output.empty:
        return text
    content = state.output.message.content
    reasoned = not isinstance(content, str) and any(isinstance(one, ContentReasoning) for one in content)
    return None if reasoned else text


def _to_answer(state: TaskState, target: Target, queue: JudgeQueue, text: str) -> Answer:
    """Build the judge's input from the fields that it declares to read, and no other."""
    reads = queue.judge.reads
    question = state.metadata.get("question")
    context = state.metadata.get("context")
    return Answer(
        question=(state.input_text if question is None else str(question)) if "question" in reads else "",
        answer=text if "answer" in reads else "",
        harmful=_is_harmful(state) and "harmful" in reads,
        reference=_join_references(target) if "reference" in reads else None,
        context=str(context) if context is not None and "context" in reads else None,
        image=find_image(state.input) if "image" in reads else None,
    )


def _join_references(target: Target) -> str | None:
    """Write a target as the `reference` of a sample: several texts as a JSON list, an empty one as none."""
    texts = [text for text in target if text]
    if len(texts) > 1:
        return canonical_json(texts).decode()
    return texts[0] if texts else None
