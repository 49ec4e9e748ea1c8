"""One judge behind many scorer calls at once: in a thread, in batches of what has come in meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import anyio
from anyio import to_thread

from cmrm.errors import UserError
from cmrm.judges import Answer, Judge, Verdict
from cmrm.judges.judge import find_fault
from tasks.judge.loaded import MOST_KEPT, JudgeUse, place_judge
from tasks.judge.stage import BATCH_SIZE
from tasks.shards.isolation import may_be_of_a_sample


@dataclass(kw_only=True, eq=False)
class _Request:
    """An answer that waits for its verdict; not frozen, since the verdict, or an error, is filled in."""

    answer: Answer
    outcome: Verdict | Exception | None = None


@dataclass(frozen=True, kw_only=True)
class JudgeQueue:
    """Gives verdicts to concurrent callers, one batch at a time.

    Whoever comes first judges, and what comes in while it does is the next batch: nobody waits for a batch to fill.
    """

    judge: Judge
    _waiting: list[_Request] = field(default_factory=list, init=False)
    _turn: anyio.Lock = field(default_factory=anyio.Lock, init=False)

    async def ask(self, answer: Answer) -> Verdict:
        """Return the verdict on an answer; raises what the judge raises on it alone.

        Raises `UserError` for a verdict that is none, and if the judge gives none.
        """
        request = _Request(answer=answer)
        self._waiting.append(request)
        try:
            async with self._turn:
                while request.outcome is None:
                    most = getattr(self.judge, "batch_size", BATCH_SIZE)
                    batch = self._waiting[:most]
                    del self._waiting[:most]
                    await to_thread.run_sync(_judge_batch, self.judge, batch)
        finally:
            if request in self._waiting:
                self._waiting.remove(request)
        if isinstance(request.outcome, Exception):
            raise request.outcome
        return request.outcome


@lru_cache(maxsize=MOST_KEPT)
def find_queue(use: JudgeUse) -> JudgeQueue:
    """Find the queue of a judge, of which a process has one: a local model is loaded once for all scorers."""
    return JudgeQueue(judge=place_judge(use))


def _judge_batch(judge: Judge, batch: Sequence[_Request]) -> None:
    """Fill in the outcomes of a batch; if one answer may have caused an error, the others are judged one by one."""
    try:
        _judge_all(judge, batch)
    except Exception as error:  # noqa: BLE001 - raised again in the caller whose answer it is about
        left = [request for request in batch if request.outcome is None]
        if len(left) > 1 and may_be_of_a_sample(error):
            for request in left:
                _judge_batch(judge, [request])
        for request in left:
            request.outcome = request.outcome or error


def _judge_all(judge: Judge, batch: Sequence[_Request]) -> None:
    waiting = dict(enumerate(batch))
    for index, verdict in judge.judge_each([request.answer for request in batch]):
        if fault := find_fault(verdict):
            raise UserError(f"judge {judge.name!r} gave {fault}; fix its judge().")
        if index not in waiting:
            raise _miscounted(judge)
        waiting.pop(index).outcome = verdict
    if waiting:
        raise _miscounted(judge)


def _miscounted(judge: Judge) -> UserError:
    return UserError(
        f"judge {judge.name!r} did not give one verdict on each answer; its judge() must return as many as it is "
        "given, in order."
    )
