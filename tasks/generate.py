"""Generate: the answers of a shard's samples under one condition, in one way or in several at once, into Parquet."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from storage.manifest import Manifest
from storage.store import Store
from tasks.ahead import ahead, make_thread
from tasks.batches import measure_beside
from tasks.generate_job import GenerateJob
from tasks.group import Asked, Groups, Refused
from tasks.joined import join, join_ways
from tasks.models import load_model_once
from tasks.oom import run_in_smaller_batches
from tasks.progress import report_rows
from tasks.samples import StoredSample
from tasks.sizes import choose_rows
from tasks.stage import make_joining_stage
from tasks.way import Way

if TYPE_CHECKING:
    from cmrm.answering import Answered, Group
    from cmrm.model import VisionLanguageModel
    from cmrm.prefix import Prefixes
    from cmrm.renderer import Renderer

# Groups that make up a full batch: as some rows are done, others can take their place. None is so large that its
# images, which wait ahead of the device, or the pass that reads it would fill memory.
GROUPS, MOST_IN_GROUP = 4, 64
# How much finished work may wait for more of it.
PIECE_SECONDS = 1.0

# The samples of a group, row by row, and the number of each of its ways; no prompts, whose images would fill memory.
Given = tuple[Sequence[StoredSample], Sequence[int]]


def _generate(jobs: Sequence[GenerateJob], store: Store) -> list[Manifest]:
    """Answer one slice in the ways of all jobs, and commit each."""
    from cmrm.prefix import Prefixes

    job = jobs[0]
    samples = job.slice.shard.read(store, job.slice.condition)
    vlm = load_model_once(job.model)
    with make_thread() as thread, ExitStack() as stack:
        ways = [stack.enter_context(Way(one, store)) for one in jobs]
        for way in ways:
            way.resume()
        slice_ = _Slice(samples, ways, vlm, thread)
        report_rows(len(samples) * len(ways) - sum(len(one.ways) for one in slice_.list_missing()))
        asked = job.batch_size or choose_rows(
            slice_.renderer,
            job.showing,
            job.slice.condition,
            samples,
            Prefixes(vlm),
            ways=len(ways),
            max_new_tokens=job.max_new_tokens,
        )
        # What was finished before memory ran out is not done again.
        size = run_in_smaller_batches(
            join(jobs), asked, slice_.answer, lambda: [one.stored.sample.id for one in slice_.list_missing()]
        )
        provenance = {
            "device": str(vlm.device),
            "ways_at_once": len(ways),
            "batch_size": asked,
            "smallest_batch_size": size,
        }
        return [way.commit(samples, provenance) for way in ways]


class _Slice:
    """Samples of a slice, and the ways in which they are answered."""

    def __init__(
        self, samples: Sequence[StoredSample], ways: Sequence[Way], vlm: VisionLanguageModel, thread: Executor
    ) -> None:
        self._samples = sorted(samples, key=measure_beside(samples, ways[0].job.slice.condition))
        self._ways = ways
        self._vlm = vlm
        self._thread = thread
        self._groups = Groups([way.job for way in ways], vlm)

    @property
    def renderer(self) -> Renderer:
        """What makes prompts of the samples."""
        return self._groups.renderer

    def list_missing(self) -> list[Asked]:
        """The samples that lack an answer, each with the ways in which it does; short questions first."""
        asked = (
            Asked(
                stored=stored,
                ways=frozenset(
                    number for number, way in enumerate(self._ways) if stored.sample.id not in way.done
                ),
            )
            for stored in self._samples
        )
        return [one for one in asked if one.ways]

    def answer(self, rows: int) -> None:
        """Answer what is missing, `rows` samples at once; what is done is handed over while this goes on."""
        from cmrm.answering import answer
        from cmrm.prefix import Prefixes

        given: list[Given] = []
        waiting, since = 0, time.monotonic()
        prefixes = Prefixes(self._vlm)
        with closing(self._give(rows, given, prefixes)) as groups:
            for answered in answer(
                self._vlm,
                groups,
                max_new_tokens=self._ways[0].job.max_new_tokens,
                rows=rows,
                prefixes=prefixes,
            ):
                self._take(given[answered.group], answered)
                waiting += 1
                if waiting >= rows or time.monotonic() - since >= PIECE_SECONDS:
                    self._hand_over()
                    waiting, since = 0, time.monotonic()
        self._hand_over()
        if left := self.list_missing():
            raise RuntimeError(
                f"{len(left)} samples came back without an answer, {left[0].stored.sample.id} first"
            )

    def _give(self, rows: int, given: list[Given], prefixes: Prefixes) -> Generator[Group]:
        """Groups of what is missing, as the model has room for them; `given` says what is in each."""
        size = min(max(1, rows // GROUPS), MOST_IN_GROUP)
        missing = self.list_missing()
        batches = (missing[start : start + size] for start in range(0, len(missing), size))
        with closing(ahead(batches, self._groups.prepare, self._thread)) as prepared:
            for one in prepared:
                self._set_aside(one.refused)
                if not one.asked:
                    continue
                steered = self._groups.steer(one, prefixes)
                self._set_aside(steered.refused)
                if steered.samples:
                    given.append((steered.samples, steered.ways))
                    yield steered.group

    def _take(self, given: Given, answered: Answered) -> None:
        samples, ways = given
        stored = samples[answered.row]
        for place, answer in answered.answers.items():
            self._ways[ways[place]].take(
                stored,
                answer,
                acted=answered.acted.get(place, {}),
                asked=answered.asked.get(place, {}),
                moved=answered.moved.get(place, {}),
            )
        report_rows(len(answered.answers))

    def _set_aside(self, refused: Sequence[Refused]) -> None:
        for one in refused:
            for number in one.ways:
                self._ways[number].set_aside(dict(one.row))
            report_rows(len(one.ways))

    def _hand_over(self) -> None:
        for way in self._ways:
            way.hand_over()


generate_answers = make_joining_stage("generate", _generate, join=join_ways, place="devices")
