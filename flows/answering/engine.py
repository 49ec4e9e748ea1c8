"""Loaded models that answer: one engine for all arms on equal files, loaded alike."""

from __future__ import annotations

import atexit
import gc
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from flows.answering.batches import BatchBuilders
from flows.answering.questions import Question
from flows.answering.queue import QuestionQueue
from flows.answering.session import Session
from flows.process import import_for_good
from tasks.core.daemon_thread import DaemonThread
from tasks.core.models import ModelUse, choose_device, load_use

if TYPE_CHECKING:
    from cmrm.models.vlm import VisionLanguageModel

# How long the interpreter's exit waits for a decoding step.
STOP_SECONDS = 10.0
# What a model is loaded and decoded by: half a million objects, which a full garbage collection takes a third of a
# second to traverse, and an evaluation in Inspect causes one for each hundred samples or so.
HEAVY = ("cmrm.models.loading", "cmrm.decoding.api", "cmrm.prefix.planner")


class Engine:
    """Answers questions for all arms of one model, which is loaded with the first of them.

    Questions that wait are decoded together, those of several arms too, and later ones join as soon as slots are free:
    none waits for a batch to be full. A batch that runs out of memory is halved, and a question on which the model
    fails is told apart from the others of its batch. Two threads do the work; they do not keep a program alive.
    """

    def __init__(self, model: ModelUse) -> None:
        self._model = model
        self._loaded: tuple[VisionLanguageModel, BatchBuilders] | None = None
        self._queue = QuestionQueue()
        self._decoding, self._preparing = DaemonThread("cmrm-answers"), DaemonThread("cmrm-prompts")
        self._stopping = threading.Event()
        # At the interpreter's exit the threads must end before it, since they may be inside of torch.
        weakref.finalize(self, _stop, (self._decoding, self._preparing)).atexit = False
        _running.add(self)
        # What steps of a defence have answered, by question: later steps read it.
        self.earlier: dict[str, dict[str, str]] = {}

    def put(self, question: Question) -> None:
        """Queue a question, whose future gets the answer, or `UserError` where it has none."""
        self._queue.put(question, partial(self._decoding.submit, self._serve))

    def stop(self) -> None:
        """End the threads after the decoding step under way; questions that are open end with an error."""
        self._stopping.set()
        _stop((self._decoding, self._preparing))
        for thread in (self._decoding, self._preparing):
            thread.join(STOP_SECONDS)

    def _serve(self) -> None:
        while (limit := self._queue.find_limit()) is not None:
            try:
                vlm, builders = self._load()
                session = Session(
                    vlm, self._queue, builders, self._preparing, limit=limit, stopping=self._stopping
                )
                session.run()
            except BaseException as error:  # noqa: BLE001 - raised where the answers are awaited
                for question in self._queue.take_all():
                    question.end(error)

    def _load(self) -> tuple[VisionLanguageModel, BatchBuilders]:
        if self._loaded is None:
            vlm = load_use(self._model)
            self._loaded = vlm, BatchBuilders(vlm)
        return self._loaded


# Engines whose threads may run.
_running: weakref.WeakSet[Engine] = weakref.WeakSet()
# Engines in use, by how their model is loaded.
_engines: weakref.WeakValueDictionary[ModelUse, Engine] = weakref.WeakValueDictionary()
_finding = threading.Lock()


def find_engine(model: ModelUse) -> Engine:
    """Find the engine of a model, or make it; it is freed, with its weights, when nobody holds it any more.

    While the first one lasts, what was imported before it is excluded from garbage collections, where nobody else has
    excluded anything.
    """
    # Names and system lines change prompts and not what is loaded.
    loaded = replace(model, label=None, system=None, device=choose_device(model.device))
    with _finding:
        found = _engines.get(loaded)
        if found is None:
            # Weights must be freed with their engine, and so none may be there yet.
            excluded = not _engines and import_for_good(*HEAVY)
            found = _engines[loaded] = Engine(loaded)
            if excluded:
                weakref.finalize(found, gc.unfreeze).atexit = False
        return found


@atexit.register
def _stop_all() -> None:
    for engine in list(_running):
        engine.stop()


def _stop(threads: Sequence[DaemonThread]) -> None:
    for thread in threads:
        thread.stop()
