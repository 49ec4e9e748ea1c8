"""Answers to questions of one limit, in common batches that later questions join."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from cmrm.errors import UserError
from flows.answering.batches import Batch, BatchBuilders, Given
from flows.answering.questions import ArmAnswer, Question
from flows.answering.queue import QuestionQueue
from tasks.core.daemon_thread import DaemonThread
from tasks.core.oom import ANSWERING, run_unless_oom
from tasks.generate.answer_writer import explain_fault
from tasks.generate.stage import MOST_IN_REQUEST, REQUESTS

if TYPE_CHECKING:
    from cmrm.decoding.requests import Answered, DecodeRequest
    from cmrm.models.vlm import VisionLanguageModel
    from cmrm.prefix.planner import Prefixes

log = logging.getLogger("cmrm.answering")


class EngineStoppedError(UserError):
    """The program ends, or the model was given back, before a question was answered."""

    def __str__(self) -> str:
        return "the program ended before this question was answered"


class Session:
    """Answers questions of one limit until none of them waits; each gets its answer or what was wrong with it."""

    def __init__(
        self,
        vlm: VisionLanguageModel,
        queue: QuestionQueue,
        builders: BatchBuilders,
        thread: DaemonThread,
        *,
        limit: int,
        stopping: threading.Event,
    ) -> None:
        self._vlm, self._queue, self._builders, self._thread = vlm, queue, builders, thread
        self._limit, self._rows, self._stopping = limit, 0, stopping
        # Taken from the queue and not answered yet; those of them that are being decoded.
        self._open: list[Question] = []
        self._decoding: set[int] = set()
        self._next: deque[list[Question]] = deque()

    def run(self) -> None:
        """Answer, in smaller batches after an OOM, and one by one after an error that one question may have caused."""
        rows: int | None = None
        while True:
            try:
                if run_unless_oom(partial(self._decode, rows)):
                    return
            except Exception as error:  # noqa: BLE001 - raised where the answers are awaited
                self._isolate(error)
                return
            rows = self._halve()

    def _decode(self, rows: int | None) -> None:
        from cmrm.decoding.api import answer
        from cmrm.prefix.planner import Prefixes

        prefixes = Prefixes(self._vlm)
        if rows is None:
            first = self._take(self._queue.wait(self._limit, MOST_IN_REQUEST))
            if not first:
                return
            rows = self._builders.find(first).choose_rows(first, prefixes)
            size = _choose_size(rows)
            self._next.extend(first[start : start + size] for start in range(0, len(first), size))
        self._rows = rows
        given: list[Given] = []
        with closing(self._feed(_choose_size(rows), prefixes, given)) as requests:
            for answered in answer(
                self._vlm, requests, max_new_tokens=self._limit, rows=rows, prefixes=prefixes
            ):
                self._give(given[answered.group], answered)

    def _feed(self, size: int, prefixes: Prefixes, given: list[Given]) -> Generator[DecodeRequest | None]:
        """Decode requests as questions arrive: None while there is none yet, and an end once all are answered."""
        preparing: Future[Batch] | None = None
        while True:
            if self._stopping.is_set():
                raise EngineStoppedError
            preparing = preparing or self._prepare(size)
            if preparing is None and not self._open:
                return
            if preparing is None and not self._decoding:
                raise RuntimeError(f"{len(self._open)} questions are neither prepared nor decoded")
            if preparing is None or (self._decoding and not preparing.done()):
                yield None
                continue
            batch = preparing.result()
            # While this one is decoded.
            preparing = self._prepare(size)
            if (request := self._make_request(batch, prefixes, given)) is not None:
                yield request

    def _prepare(self, size: int) -> Future[Batch] | None:
        """Begin to prepare the next questions, in the thread for it; None if there are none yet."""
        if self._next:
            questions = self._next.popleft()
        elif self._open:
            questions = self._take(self._queue.look(self._limit, size))
        else:
            questions = self._take(self._queue.wait(self._limit, size))
        if not questions:
            return None
        return self._thread.submit(partial(self._builders.find(questions).prepare, questions))

    def _make_request(self, batch: Batch, prefixes: Prefixes, given: list[Given]) -> DecodeRequest | None:
        """Make the decode request of a batch; None if none of its questions can be asked."""
        builder = batch.builder
        self._refuse(builder.list_refused(batch, batch.prepared.quarantined))
        if not batch.prepared.asked:
            return None
        steered, made = builder.steer(batch, prefixes)
        self._refuse(builder.list_refused(batch, steered.quarantined))
        if not steered.samples:
            return None
        given.append(made)
        self._decoding.update(id(one) for one in batch.questions if not one.answer.done())
        return steered.request

    def _take(self, questions: list[Question]) -> list[Question]:
        self._open += questions
        return questions

    def _give(self, given: Given, answered: Answered) -> None:
        """Hand out the answers to one prompt."""
        for place, one in answered.answers.items():
            for question in given.list_questions(answered.row, place):
                if one.fault is not None:
                    self._close(question, UserError(f"{explain_fault(one.fault)}."))
                    continue
                self._close(
                    question,
                    ArmAnswer(
                        text=one.text,
                        finish_reason=one.finish_reason,
                        tokens=one.tokens,
                        prompt_tokens=one.prompt_tokens,
                        all_tokens=one.tokens,
                        all_prompt_tokens=one.prompt_tokens,
                        proof=answered.proofs.get(place),
                    ),
                )

    def _refuse(self, refused: Iterable[tuple[Question, str]]) -> None:
        for question, reason in refused:
            self._close(question, UserError(f"{reason}."))

    def _close(self, question: Question, end: ArmAnswer | Exception) -> None:
        self._open.remove(question)
        self._decoding.discard(id(question))
        question.end(end)

    def _halve(self) -> int:
        """Give back what an OOM left open, and halve the batch; a question alone has no smaller one, and is ended."""
        left, self._open = self._open, []
        self._decoding.clear()
        self._next.clear()
        self._queue.give_back(left)
        failed = min(self._rows or len(left), self._queue.count(self._limit))
        if failed <= 1:
            for question in self._queue.wait(self._limit, 1):
                question.end(UserError(f"out of memory on a single question. Give {ANSWERING}."))
        rows = max(1, failed // 2)
        log.warning("out of memory on a batch of %d questions; going on with batches of %d", failed, rows)
        return rows

    def _isolate(self, error: Exception) -> None:
        """End an open question with an error, or ask each alone where one of several, or its arm, caused it."""
        left, self._open = self._open, []
        if len(left) > 1 and not isinstance(error, EngineStoppedError):
            log.warning("%s: asking %d questions one by one", type(error).__name__, len(left))
            for question in left:
                alone = QuestionQueue()
                alone.give_back([question])
                Session(
                    self._vlm,
                    alone,
                    self._builders,
                    self._thread,
                    limit=self._limit,
                    stopping=self._stopping,
                ).run()
            return
        for question in left:
            question.end(error)


def _choose_size(rows: int) -> int:
    """Prompts of one decode request where so many are decoded at once."""
    return min(max(1, rows // REQUESTS), MOST_IN_REQUEST)
