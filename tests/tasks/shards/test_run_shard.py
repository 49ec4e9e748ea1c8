"""After an OOM a batch is retried at half its size, and finished rows are kept."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import pytest
import torch

from cmrm.errors import UserError
from cmrm.models.oom import is_out_of_memory
from cmrm.prompts.sample import Sample
from storage.records.manifest import Manifest
from storage.shards.rows import read_rows
from storage.store import Store
from storage.tables.arrow import from_rows
from tasks.shards.run_shard import Finished, work_through
from tasks.shards.samples import StoredSample
from tests.parts import wait_for_part
from tests.small_job import AnswerJob


def answer(batch: Sequence[StoredSample]) -> Finished:
    row = {"model": "m", "dataset": "d", "condition": "query", "intervention": "", "answer": "yes"}
    rows = [row | {"sample_id": one.sample.id, "answer_digest": "0"} for one in batch]
    return from_rows(rows, "responses"), []


def work(
    folder: Path, finish: Callable[[Sequence[StoredSample]], Finished], *, samples: int, batch_size: int
) -> Manifest:
    return work_in_pieces(folder, lambda batch: [finish(batch)], samples=samples, batch_size=batch_size)


def work_in_pieces(
    folder: Path,
    finish: Callable[[Sequence[StoredSample]], Iterable[Finished]],
    *,
    samples: int,
    batch_size: int,
    prepare: Callable[[Sequence[StoredSample]], Sequence[StoredSample]] = lambda batch: batch,
) -> Manifest:
    asked = [Sample(id=f"s{i}", dataset="d", question="?" * (i + 1), harmful=True) for i in range(samples)]
    job = AnswerJob(store=str(folder), label="d query", rows=samples)
    return work_through(
        job,
        Store.create(folder),
        kind="responses",
        samples=[StoredSample(sample=one, split="target", image_digest=None) for one in asked],
        asked=[one.id for one in asked],
        batch_size=batch_size,
        prepare=prepare,
        finish=lambda batches: chain.from_iterable(map(finish, batches)),
        partitions={},
        provenance={},
    )


class Small:
    """A model with memory for `capacity` samples at once; records the batch sizes it was given."""

    def __init__(self, capacity: int, error: Exception) -> None:
        self.capacity, self.error = capacity, error
        self.tried: list[int] = []

    def __call__(self, batch: Sequence[StoredSample]) -> Finished:
        self.tried.append(len(batch))
        if len(batch) > self.capacity:
            raise self.error
        return answer(batch)


def test_an_oom_halves_the_batch_size_and_later_batches_are_no_larger(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = Small(3, torch.OutOfMemoryError("CUDA out of memory."))
    with caplog.at_level(logging.WARNING):
        manifest = work(tmp_path, small, samples=17, batch_size=8)
    assert small.tried == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2, 1]
    assert [record.getMessage() for record in caplog.records] == [
        "generate d query: out of memory on a batch of 8; going on with batches of 4",
        "generate d query: out of memory on a batch of 4; going on with batches of 2",
    ]
    ids = read_rows(Store.open(tmp_path), manifest, "responses")["sample_id"].to_pylist()
    assert sorted(ids) == sorted(f"s{i}" for i in range(17))
    assert (manifest.provenance["batch_size"], manifest.provenance["smallest_batch_size"]) == (8, 2)


def test_an_attempt_that_ran_out_of_memory_is_freed_before_the_retry(tmp_path: Path) -> None:
    class Activations:
        """Stands for the tensors of a forward pass."""

    held: list[weakref.ref[Activations]] = []

    def finish(batch: Sequence[StoredSample]) -> Finished:
        assert all(one() is None for one in held)
        activations = Activations()
        held.append(weakref.ref(activations))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return answer(batch)

    work(tmp_path, finish, samples=4, batch_size=4)
    assert len(held) == 6


def test_pieces_finished_before_an_oom_are_not_run_again(tmp_path: Path) -> None:
    asked: list[str] = []

    def give_pieces(batch: Sequence[StoredSample]) -> Iterator[Finished]:
        for place, one in enumerate(batch):
            asked.append(one.sample.id)
            if place == 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            yield answer([one])

    manifest = work_in_pieces(tmp_path, give_pieces, samples=6, batch_size=4)
    assert asked == ["s0", "s1", "s2", "s2", "s3", "s4", "s5"]
    ids = read_rows(Store.open(tmp_path), manifest, "responses")["sample_id"].to_pylist()
    assert ids == [f"s{i}" for i in range(6)]


def test_an_oom_on_a_single_sample_is_a_user_error_and_finished_rows_are_kept(
    tmp_path: Path,
) -> None:
    def lack_memory_for_long_ones(batch: Sequence[StoredSample]) -> Finished:
        if any(len(one.sample.question) > 3 for one in batch):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return answer(batch)

    with pytest.raises(UserError) as told:
        work(tmp_path, lack_memory_for_long_ones, samples=5, batch_size=2)
    for part in ("generate d query", "'s3'", "max_new_tokens", "model.dtype", "model.device"):
        assert part in str(told.value)
    larger = Small(8, RuntimeError())
    work(tmp_path, larger, samples=5, batch_size=8)
    assert larger.tried == [2]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        torch.AcceleratorError("CUDA error: out of memory", 2),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.90 GB)"),
        MemoryError(),
    ],
    ids=lambda error: str(error)[:40] or "MemoryError",
)
def test_every_kind_of_oom_is_recognized(tmp_path: Path, error: Exception) -> None:
    small = Small(1, error)
    work(tmp_path, small, samples=2, batch_size=2)
    assert small.tried == [2, 1, 1]


def test_other_errors_are_no_oom(tmp_path: Path) -> None:
    for error in (RuntimeError("CUDA error: device-side assert triggered"), ValueError("out of memory")):
        assert not is_out_of_memory(error)
        small = Small(1, error)
        with pytest.raises(type(error), match=str(error)):
            work(tmp_path, small, samples=2, batch_size=2)
        assert small.tried == [2]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_oom_while_a_batch_is_prepared_halves_the_batch_size_too(tmp_path: Path, place: int) -> None:
    tried: list[int] = []

    def prepare(batch: Sequence[StoredSample]) -> Sequence[StoredSample]:
        tried.append(len(batch))
        if len(tried) == place + 1:
            raise MemoryError
        return batch

    manifest = work_in_pieces(
        tmp_path, lambda batch: [answer(batch)], samples=12, batch_size=4, prepare=prepare
    )
    assert tried[: place + 1] == [4] * (place + 1)
    assert set(tried[place + 1 :]) <= {1, 2, 4}
    assert manifest.provenance["smallest_batch_size"] == 2
    ids = read_rows(Store.open(tmp_path), manifest, "responses")["sample_id"].to_pylist()
    assert sorted(ids) == sorted(f"s{i}" for i in range(12))


def test_a_single_sample_whose_preparation_runs_out_of_memory_is_named(tmp_path: Path) -> None:
    def prepare(_batch: Sequence[StoredSample]) -> Sequence[StoredSample]:
        raise MemoryError

    with pytest.raises(UserError, match="out of memory on a single sample, 's0'"):
        work_in_pieces(tmp_path, lambda batch: [answer(batch)], samples=5, batch_size=4, prepare=prepare)


def test_finished_rows_are_flushed_before_waiting_for_the_prefetch_thread(tmp_path: Path) -> None:
    begun, kept = threading.Event(), list[bool]()

    def prepare(batch: Sequence[StoredSample]) -> Sequence[StoredSample]:
        if batch[0].sample.id != "s0":
            begun.set()
            kept.append(wait_for_part(tmp_path))
        return batch

    def stop(batch: Sequence[StoredSample]) -> Iterator[Finished]:
        yield answer(batch)
        assert begun.wait(timeout=30)
        raise RuntimeError("it was told to stop")

    with pytest.raises(RuntimeError, match="told to stop"):
        work_in_pieces(tmp_path, stop, samples=2, batch_size=1, prepare=prepare)
    assert kept == [True]
