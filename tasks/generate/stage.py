"""Generate answers of a shard's samples under one condition, one arm or several at once, into Parquet."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from storage.records.manifest import Manifest
from storage.shards.writer import make_writer_thread
from storage.store import Store
from tasks.core.models import load_model_once
from tasks.core.oom import run_in_fixed_batches, run_in_smaller_batches
from tasks.core.progress import report_rows
from tasks.core.stage import make_joining_stage
from tasks.core.stage_name import StageName
from tasks.generate.answer_writer import AnswerWriter
from tasks.generate.job import GenerateJob
from tasks.generate.job_group import group_jobs, join
from tasks.generate.prepare import ArmUse, PendingSample, QuarantinedSample, RequestBuilder
from tasks.generate.steps import settle_steps
from tasks.shards.answers import REASONING
from tasks.shards.batch_size import choose_rows
from tasks.shards.batches import is_alone, split_apart
from tasks.shards.derived_rows import record_row
from tasks.shards.isolation import Isolation, run_past_failures
from tasks.shards.precision import DTYPE, describe_dtype
from tasks.shards.prefetch import make_thread, prefetch
from tasks.shards.prompts import quarantine_row
from tasks.shards.run_shard import measure_beside
from tasks.shards.samples import StoredSample
from tasks.shards.stimuli import STIMULI, check_stimuli, fit_images
from tasks.states.steering import list_meaningless

if TYPE_CHECKING:
    from cmrm.decoding.api import Answered, DecodeRequest
    from cmrm.models.vlm import VisionLanguageModel
    from cmrm.prefix.planner import Prefixes
    from cmrm.prefix.renderer import Renderer

# Decode requests per full batch: as some rows finish, others take their slots. A request is bounded, so that neither
# its prefetched images nor its prefill runs out of memory.
REQUESTS, MOST_IN_REQUEST = 4, 64
# Finished answers are written after at most this long.
PIECE_SECONDS = 1.0

# The samples of a decode request by row, and its arms' numbers; no prompts, whose images would fill memory.
Given = tuple[Sequence[StoredSample], Sequence[int]]


def generate(jobs: Sequence[GenerateJob], store: Store) -> list[Manifest]:
    """Answer one shard under the arms of all jobs, and commit each."""
    from cmrm.prefix.planner import Prefixes

    samples = jobs[0].read(store)
    vlm = load_model_once(jobs[0].model)
    shown = list_meaningless(jobs[0].slice.condition, *(one.steering for one in jobs))
    showing = fit_images(jobs[0].showing, vlm, shown)
    jobs = [replace(one, showing=showing) for one in jobs]
    job = jobs[0]
    stimuli = check_stimuli(showing, vlm, shown, model=job.model.name)
    with make_thread() as thread, ExitStack() as stack:
        # One thread for all arms, of which there may be dozens; closed after their writers.
        writing = stack.enter_context(make_writer_thread())
        arms = [stack.enter_context(AnswerWriter(one, store, thread=writing)) for one in jobs]
        for arm in arms:
            arm.resume()
        for arm in arms:
            settle_steps(arm, samples)
        shard = _ShardDecoder(samples, arms, vlm, thread)
        report_rows(len(samples) * len(arms) - sum(len(one.arms) for one in shard.list_missing()))
        asked = (
            job.fixed_batch
            or job.batch_size
            or choose_rows(
                shard.renderer,
                job.showing,
                job.slice.condition,
                samples,
                Prefixes(vlm),
                arms=len(arms) - shard.count_alone(),
                alone=shard.count_alone(),
                requests=REQUESTS,
                max_new_tokens=job.max_new_tokens,
            )
        )
        # Rows finished before an OOM are not decoded again.
        group = join(jobs)
        run, answer = (
            (run_in_smaller_batches, shard.answer)
            if job.fixed_batch is None
            else (run_in_fixed_batches, shard.answer_whole)
        )
        size = run(
            group,
            asked,
            lambda rows: run_past_failures(group, partial(answer, rows), shard.isolation),
            lambda: [one.stored.sample.id for one in shard.list_missing()],
        )
        provenance = {
            "device": str(vlm.device),
            DTYPE: describe_dtype(vlm.model.dtype),
            **record_row(vlm, model=job.model.name),
            "ways_at_once": len(arms),
            "batch_size": asked,
            "smallest_batch_size": size,
            **({STIMULI: stimuli} if stimuli else {}),
            **({} if job.model.reasoning is None else {REASONING: job.model.reasoning.content()}),
        }
        return [arm.commit(samples, provenance) for arm in arms]


class _ShardDecoder:
    """Decodes the samples of a shard under several arms, and writes their answers."""

    def __init__(
        self,
        samples: Sequence[StoredSample],
        arms: Sequence[AnswerWriter],
        vlm: VisionLanguageModel,
        thread: Executor,
    ) -> None:
        self._samples = sorted(samples, key=measure_beside(samples, arms[0].job.slice.condition))
        self._arms = arms
        self._vlm = vlm
        self._thread = thread
        self._builder = self._make_builder()
        self._in_flight: list[StoredSample] = []
        self._failed: set[str] = set()

    def _make_builder(self) -> RequestBuilder:
        first = self._arms[0].job
        return RequestBuilder(
            [ArmUse(use=arm.job.steering, store=arm.job.store) for arm in self._arms],
            self._vlm,
            showing=first.showing,
            condition=first.slice.condition,
            stage=first.stage,
        )

    @property
    def renderer(self) -> Renderer:
        """The renderer of the samples' prompts."""
        return self._builder.renderer

    def count_alone(self) -> int:
        """How many arms share their prefill with no other."""
        return self._builder.count_alone()

    def list_missing(self) -> list[PendingSample]:
        """The samples that lack an answer, each with the arms that lack it; short questions first."""
        asked = (
            PendingSample(
                stored=stored,
                arms=frozenset(
                    number for number, arm in enumerate(self._arms) if stored.sample.id not in arm.done
                ),
            )
            for stored in self._samples
        )
        return [one for one in asked if one.arms]

    @property
    def isolation(self) -> Isolation:
        """The callbacks that find the samples on which the model fails."""
        return Isolation(
            list_suspects=self._list_suspects,
            list_controls=self._list_controls,
            probe=self._answer_alone,
            quarantine=self._quarantine,
        )

    def answer(self, rows: int) -> None:
        """Decode the missing answers, `rows` samples at once; finished ones are written in the background."""
        size = min(max(1, rows // REQUESTS), MOST_IN_REQUEST)
        missing = self.list_missing()
        self._answer(list(split_apart(missing, size, _is_alone)), rows)
        self._expect_all()

    def answer_whole(self, rows: int) -> None:
        """Decode every fixed batch of `rows` samples, cut from the whole shard, in which an answer is missing."""
        missing = {one.stored.sample.id for one in self.list_missing()}
        arms = frozenset(range(len(self._arms)))
        for start in range(0, len(self._samples), rows):
            batch = [
                PendingSample(stored=stored, arms=arms)
                for stored in self._samples[start : start + rows]
                if stored.sample.id not in self._failed
            ]
            if any(one.stored.sample.id in missing for one in batch):
                self._answer(list(split_apart(batch, MOST_IN_REQUEST, _is_alone)), rows)
        self._expect_all()

    def _answer(self, batches: Sequence[Sequence[PendingSample]], rows: int) -> None:
        from cmrm.decoding.api import answer
        from cmrm.prefix.planner import Prefixes

        given: list[Given] = []
        waiting, since = 0, time.monotonic()
        prefixes = Prefixes(self._vlm)
        with closing(self._give(batches, given, prefixes)) as requests:
            for answered in answer(
                self._vlm,
                requests,
                max_new_tokens=self._arms[0].job.max_new_tokens,
                rows=rows,
                prefixes=prefixes,
            ):
                self._take(given[answered.group], answered)
                waiting += 1
                if waiting >= rows or time.monotonic() - since >= PIECE_SECONDS:
                    self._flush()
                    waiting, since = 0, time.monotonic()
        self._flush()

    def _expect_all(self) -> None:
        if left := self.list_missing():
            raise RuntimeError(
                f"{len(left)} samples came back without an answer, {left[0].stored.sample.id} first"
            )

    def _give(
        self, batches: Sequence[Sequence[PendingSample]], given: list[Given], prefixes: Prefixes
    ) -> Generator[DecodeRequest]:
        """Decode requests, built as the scheduler asks for them; `given` records the content of each."""
        with closing(prefetch(self._hand_out(batches), self._builder.prepare, self._thread)) as prepared:
            for one in prepared:
                self._take_quarantined(one.quarantined)
                if not one.asked:
                    continue
                steered = self._builder.steer(one, prefixes)
                self._take_quarantined(steered.quarantined)
                if steered.samples:
                    given.append((steered.samples, steered.arms))
                    yield steered.request

    def _hand_out(self, batches: Sequence[Sequence[PendingSample]]) -> Iterator[Sequence[PendingSample]]:
        self._in_flight = []
        for batch in batches:
            self._in_flight += [one.stored for one in batch]
            yield batch

    def _list_suspects(self) -> list[StoredSample]:
        missing = {one.stored.sample.id for one in self.list_missing()}
        return [stored for stored in self._in_flight if stored.sample.id in missing]

    def _list_controls(self) -> list[StoredSample]:
        apart = {stored.sample.id for stored in self._list_suspects()} | self._failed
        missing = {one.stored.sample.id for one in self.list_missing()}
        others = [stored for stored in self._samples if stored.sample.id not in apart]
        return sorted(others, key=lambda stored: stored.sample.id in missing)

    def _answer_alone(self, stored: StoredSample) -> None:
        """Decode one token of one sample under all arms, to see whether the model fails on it."""
        from cmrm.decoding.api import answer
        from cmrm.prefix.planner import Prefixes

        builder, prefixes = self._make_builder(), Prefixes(self._vlm)
        prepared = builder.prepare([PendingSample(stored=stored, arms=frozenset(range(len(self._arms))))])
        if prepared.asked and (steered := builder.steer(prepared, prefixes)).samples:
            for _ in answer(self._vlm, [steered.request], max_new_tokens=1, rows=1, prefixes=prefixes):
                pass

    def _quarantine(self, stored: StoredSample, reason: str) -> None:
        self._failed.add(stored.sample.id)
        arms = frozenset(number for number, arm in enumerate(self._arms) if stored.sample.id not in arm.done)
        row = quarantine_row(stored, stage=self._arms[0].job.stage, reason=reason)
        self._take_quarantined([QuarantinedSample(row=row, arms=arms)])

    def _take(self, given: Given, answered: Answered) -> None:
        samples, arms = given
        stored = samples[answered.row]
        new = {place for place in answered.answers if stored.sample.id not in self._arms[arms[place]].done}
        for place in sorted(new):
            answer = answered.answers[place]
            self._arms[arms[place]].take(stored, answer, proof=answered.proofs.get(place))
        report_rows(len(new))

    def _take_quarantined(self, quarantined: Sequence[QuarantinedSample]) -> None:
        for one in quarantined:
            new = [number for number in one.arms if one.row["sample_id"] not in self._arms[number].done]
            for number in new:
                self._arms[number].quarantine(dict(one.row))
            report_rows(len(new))

    def _flush(self) -> None:
        for arm in self._arms:
            arm.flush()


generate_answers = make_joining_stage(StageName.GENERATE, generate, join=group_jobs, place="devices")


def _is_alone(pending: PendingSample) -> bool:
    return is_alone(pending.stored)
