"""A shard decoded in all its arms at once gives the rows of each arm decoded alone, despite OOM, kills and errors."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
import torch

from cmrm.decoding import api as answering
from cmrm.decoding.api import Answered, DecodeRequest
from cmrm.errors import UserError
from cmrm.prefix.planner import Prefixes
from cmrm.steering import shift
from flows.plan.plan import make_plan
from flows.spec.spec import read_spec
from storage.records.manifest import Manifest
from storage.shards.rows import read_rows
from storage.store import Store
from tasks.core.stage import Job
from tasks.data.ingest import ingest
from tasks.generate.job import GenerateJob
from tasks.generate.job_group import JobGroup, join
from tasks.generate.prepare import PendingSample, Prepared, RequestBuilder
from tasks.generate.stage import generate_answers
from tasks.shards.prompts import PromptBuilder
from tests.parts import wait_for_part

Rows = list[dict[str, Any]]
SAMPLES = 10
# Plain, one block at two strengths, and another block.
STEERED = [
    {"name": "middle", "level": "sample", "blocks": [1], "alpha": [0.5, 1.0]},
    {"name": "last", "level": "sample", "blocks": "last", "alpha": 1.0},
]
# As it is, beside what the tests make of it.
answer = answering.answer


@pytest.fixture(scope="module")
def prepared(
    llava_folder: Path, tmp_path_factory: pytest.TempPathFactory, write_spec: Callable[..., Path]
) -> JobGroup:
    """Ten samples, none of them answered, in four arms; the store is left as it is."""
    tmp_path = tmp_path_factory.mktemp("prepared")
    spec = write_spec(
        tmp_path / "data",
        llava_folder,
        datasets={"own": {"format": "jsonl", "path": "own.jsonl", "images": "images"}},
        anchors={"from": {}},
        conditions=["image"],
        target_states=[],
        interventions=STEERED,
        batch_size=8,
        shard_size=64,
    )
    store = Store.create(tmp_path / "store")
    plan = make_plan(read_spec(spec), store=store)
    samples = {job.dataset: do(ingest.do, job)[0] for job in plan.ingest_jobs({})}
    (model,) = plan.by_model()
    (found,) = generate_answers.join(model.generate_jobs(samples, model.steer({}, {})))
    assert isinstance(found, JobGroup)
    assert (len(found.jobs), found.rows) == (4, 4 * SAMPLES)
    return found


def copy(prepared: JobGroup, place: Path) -> JobGroup:
    """The same with a store of its own."""
    store = str(shutil.copytree(prepared.store, place))
    copied = join([replace(job, store=store) for job in prepared.jobs])
    assert isinstance(copied, JobGroup)
    return copied


@pytest.fixture
def unit(prepared: JobGroup, tmp_path: Path) -> JobGroup:
    """Ten samples, none of them answered, in four arms, in a store of the test's own."""
    return copy(prepared, tmp_path / "store")


def do(task: Callable[[Any], dict[str, Any]], job: Job) -> list[Manifest]:
    return [Manifest.from_json(made.encode()) for made in task(job)["manifests"]]


def answer_all(unit: Job) -> list[Rows]:
    """Do a unit; the rows of each of its members, by sample."""
    store = Store.open(unit.store)
    made = do(generate_answers.do, unit)
    return [read_rows(store, one, "responses").sort_by("sample_id").to_pylist() for one in made]


def quarantined(unit: Job) -> list[list[tuple[str, str]]]:
    store = Store.open(unit.store)
    found = [store.find(job.stage, job.key) for job in unit.members()]
    return [
        [(row["sample_id"], row["reason"]) for row in read_rows(store, one, "quarantine").to_pylist()]
        if one is not None and one.paths("quarantine")
        else []
        for one in found
    ]


def take_away(unit: JobGroup, places: Sequence[int]) -> None:
    """Let some members be not committed any more."""
    for place in places:
        job = unit.jobs[place]
        (Path(unit.store) / "manifests" / job.stage / f"{job.key}.json").unlink()


@pytest.fixture(scope="module")
def alone(prepared: JobGroup, tmp_path_factory: pytest.TempPathFactory) -> list[Rows]:
    """The rows of each arm decoded alone, in another store."""
    unit = copy(prepared, tmp_path_factory.mktemp("alone") / "store")
    return [answer_all(job)[0] for job in unit.jobs]


def watch(
    monkeypatch: pytest.MonkeyPatch, cut: Callable[[int, Iterator[Answered]], Iterator[Answered]]
) -> list[DecodeRequest]:
    """Let `cut` make of the answers what it will, knowing how many rows there may be; the groups that were asked."""
    groups: list[DecodeRequest] = []

    def note(given: Iterator[DecodeRequest]) -> Iterator[DecodeRequest]:
        for group in given:
            groups.append(group)
            yield group

    def watched(vlm: Any, given: Iterator[DecodeRequest], *, rows: int, **more: Any) -> Iterator[Answered]:
        yield from cut(rows, answer(vlm, note(given), rows=rows, **more))

    monkeypatch.setattr(answering, "answer", watched)
    return groups


def test_each_arm_has_the_rows_that_it_has_when_decoded_alone(unit: JobGroup, alone: list[Rows]) -> None:
    assert answer_all(unit) == alone
    assert [len(rows) for rows in alone] == [SAMPLES] * 4
    assert [(rows[0]["intervention"], rows[0]["alpha"]) for rows in alone] == [
        ("", None),
        ("middle", 0.5),
        ("middle", 1.0),
        ("last", 1.0),
    ]
    assert not list((Path(unit.store) / "parts").rglob("*.parquet"))


def test_images_are_opened_once_and_a_samples_own_shift_is_measured_once_for_all_strengths(
    unit: JobGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    measured: list[tuple[int, ...]] = []
    show, measure = PromptBuilder.show, shift.measure_sample_shift

    def count_shown(self: PromptBuilder, stored: Any, condition: Any) -> Any:
        if condition == "image":
            opened.append(stored.sample.id)
        return show(self, stored, condition)

    def count_measured(vlm: Any, *, with_image: Any, blocks: Any, **more: Any) -> Any:
        measured.append((len(with_image), *blocks))
        return measure(vlm, with_image=with_image, blocks=blocks, **more)

    monkeypatch.setattr(PromptBuilder, "show", count_shown)
    monkeypatch.setattr(shift, "measure_sample_shift", count_measured)
    answer_all(unit)
    assert sorted(opened) == sorted(set(opened))
    assert len(opened) == SAMPLES
    # A quarter of a batch at a time, at both blocks.
    assert measured == [(2, 1, 3)] * 5


def test_a_sample_whose_own_shift_is_not_finite_at_an_arms_block_is_quarantined_in_that_arm_alone(
    unit: JobGroup, alone: list[Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = shift.measure_sample_shift

    def overflow(*arguments: Any, blocks: Any, **more: Any) -> torch.Tensor:
        delta = measure(*arguments, blocks=blocks, **more)
        delta[0, list(blocks).index(3)] = float("inf")
        return delta

    monkeypatch.setattr(shift, "measure_sample_shift", overflow)
    rows = answer_all(unit)
    assert rows[:3] == alone[:3]
    aside = quarantined(unit)
    assert aside[:3] == [[], [], []]
    assert len(aside[3]) == 5
    assert all("sample-level Δ is not finite" in reason for _, reason in aside[3])
    lost = {sample for sample, _ in aside[3]}
    assert rows[3] == [row for row in alone[3] if row["sample_id"] not in lost]


def test_out_of_memory_the_unit_goes_on_with_half_the_rows_and_does_nothing_twice(
    unit: JobGroup, alone: list[Rows], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[int] = []

    def lack_memory(rows: int, answered: Iterator[Answered]) -> Iterator[Answered]:
        tried.append(rows)
        if rows == 1:
            yield from answered
            return
        yield from islice(answered, 3)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    watch(monkeypatch, lack_memory)
    with caplog.at_level(logging.WARNING):
        assert answer_all(unit) == alone
    assert tried == [8, 3, 1]
    assert [record.getMessage() for record in caplog.records] == [
        "generate own image 0–10, 4 arms: out of memory on a batch of 7; going on with batches of 3",
        "generate own image 0–10, 4 arms: out of memory on a batch of 3; going on with batches of 1",
    ]
    manifest = Store.open(unit.store).find("generate", unit.jobs[0].key)
    assert manifest is not None
    provenance = manifest.provenance
    assert (provenance["batch_size"], provenance["smallest_batch_size"]) == (8, 1)


def test_oom_on_a_single_sample_is_reported_and_finished_rows_are_kept(
    unit: JobGroup, alone: list[Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lack_memory(_rows: int, answered: Iterator[Answered]) -> Iterator[Answered]:
        yield from islice(answered, 1)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch:
        watch(patch, lack_memory)
        with pytest.raises(UserError, match=r"4 arms: out of memory on a single sample, '\d'"):
            answer_all(unit)
    groups = watch(monkeypatch, lambda _rows, answered: answered)
    assert answer_all(unit) == alone
    # One was answered at each of 8, 4, 2 and 1 rows.
    assert sum(len(group.prompts) for group in groups) == SAMPLES - 4


def test_arms_that_got_farther_than_others_do_not_generate_their_answers_again(
    unit: JobGroup, alone: list[Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_rows: int, answered: Iterator[Answered]) -> Iterator[Answered]:
        yield from islice(answered, 3)
        raise RuntimeError("the plug was pulled")

    for part in (unit.jobs[0], join(unit.jobs[1:3])):
        with monkeypatch.context() as patch:
            watch(patch, stop)
            with pytest.raises(RuntimeError, match="plug"):
                answer_all(part)
    groups = watch(monkeypatch, lambda _rows, answered: answered)
    assert answer_all(unit) == alone
    asked = [len(group.arms_of(row)) for group in groups for row in range(len(group.prompts))]
    assert asked == [1] * 3 + [4] * 7


def test_answers_are_kept_before_anyone_waits(unit: JobGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare, begun, kept, numbers = RequestBuilder.prepare, threading.Event(), list[bool](), count(1)

    def hold(self: RequestBuilder, batch: Sequence[PendingSample]) -> Prepared:
        if next(numbers) == 5:  # there is room for four
            begun.set()
            kept.append(wait_for_part(Path(unit.store)))
        return prepare(self, batch)

    def stop(_rows: int, answered: Iterator[Answered]) -> Iterator[Answered]:
        yield next(answered)
        assert begun.wait(timeout=30)
        raise RuntimeError("it was told to stop")

    monkeypatch.setattr(RequestBuilder, "prepare", hold)
    watch(monkeypatch, stop)
    with pytest.raises(RuntimeError, match="told to stop"):
        answer_all(unit)
    assert kept == [True]


def test_oom_while_free_memory_is_measured_does_not_end_the_job_group(
    unit: JobGroup, alone: list[Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out, failures = Prefixes.lay_out, [torch.OutOfMemoryError("CUDA out of memory.")]

    def lack_memory(*arguments: Any, **more: Any) -> Any:
        if failures:
            raise failures.pop()
        return lay_out(*arguments, **more)

    monkeypatch.setattr(Prefixes, "lay_out", lack_memory)
    assert answer_all(join([replace(job, batch_size=None) for job in unit.jobs])) == alone


def test_a_member_that_is_gone_is_done_alone(
    unit: JobGroup, alone: list[Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_all(unit)
    take_away(unit, [1])
    groups = watch(monkeypatch, lambda _rows, answered: answered)
    assert answer_all(unit) == alone
    assert {len(group.arms) for group in groups} == {1}


def test_a_block_that_the_model_does_not_have_is_an_error_before_any_decoding(
    unit: JobGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = watch(monkeypatch, lambda _rows, answered: answered)
    bad = unit.jobs[1]
    assert bad.steering is not None
    far: GenerateJob = replace(bad, steering=replace(bad.steering, blocks=(9,)))
    with pytest.raises(UserError, match="no block 9 in this model"):
        answer_all(join([unit.jobs[0], far]))
    assert not groups
