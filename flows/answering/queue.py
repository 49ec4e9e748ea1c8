"""The queue of an engine: questions wait until no more arrive, and never for a batch to be full."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic

from flows.answering.questions import Question

# Questions that arrive within so many seconds of each other share a prefill; none waits longer than the second number.
QUIET, LONGEST = 0.005, 0.05
# Whoever was answered may ask again: so long is waited for that while nothing else is to be done.
IDLE = 0.05


class QuestionQueue:
    """Questions for arms of one model, in the order in which they came."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Question] = deque()
        self._served = False

    def put(self, question: Question, start: Callable[[], object]) -> None:
        """Add a question; `start` is called where nobody serves the queue."""
        with self._changed:
            self._waiting.append(question)
            self._changed.notify_all()
            if not self._served:
                self._served = True
                start()

    def give_back(self, questions: Sequence[Question]) -> None:
        """Put questions before all that wait."""
        with self._changed:
            self._waiting.extendleft(reversed(questions))

    def find_limit(self) -> int | None:
        """The limit of the first question; None, and the queue counts as not served, if there is none."""
        with self._changed:
            if not self._waiting:
                self._served = False
                return None
            return self._waiting[0].limit

    def count(self, limit: int) -> int:
        """Count the questions of a limit."""
        with self._changed:
            return sum(one.limit == limit for one in self._waiting)

    def take_all(self) -> list[Question]:
        """Take all questions."""
        with self._changed:
            waiting, self._waiting = list(self._waiting), deque()
        return waiting

    def look(self, limit: int, most: int) -> list[Question]:
        """Take questions of one limit that fit together, at most `most`; none if there are none or more may arrive."""
        with self._changed:
            return [] if self._measure_wait(limit, most) > 0 else self._take(limit, most)

    def wait(self, limit: int, most: int) -> list[Question]:
        """Take questions as `look` does, once no more arrive; none if there are none for a while."""
        until = monotonic() + IDLE
        with self._changed:
            while not self._waiting and (left := until - monotonic()) > 0:
                self._changed.wait(left)
            while (left := self._measure_wait(limit, most)) > 0:
                self._changed.wait(left)
            return self._take(limit, most)

    def _measure_wait(self, limit: int, most: int) -> float:
        """Seconds until the questions of a limit should be taken."""
        since = [one.since for one in self._waiting if one.limit == limit]
        if not since or len(since) >= most:
            return 0.0
        now = monotonic()
        return min(QUIET - (now - max(since)), LONGEST - (now - min(since)))

    def _take(self, limit: int, most: int) -> list[Question]:
        """Take questions of one limit, condition and scene, in their order; cancelled ones are dropped."""
        fitting = [one for one in self._waiting if one.limit == limit]
        if not fitting:
            return []
        fitting = [one for one in fitting if one.condition == fitting[0].condition]
        scenes = [one.arm.scene for one in fitting if one.arm.scene is not None]
        chosen = [one for one in fitting if one.arm.scene is None or one.arm.scene == scenes[0]][:most]
        taken = set(map(id, chosen))
        self._waiting = deque(one for one in self._waiting if id(one) not in taken)
        # A question that an OOM gave back is running already.
        return [one for one in chosen if one.answer.running() or one.answer.set_running_or_notify_cancel()]
