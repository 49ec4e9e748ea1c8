"""One slice answered in all its ways at once gives the rows of each way answered alone, whatever happens meanwhile."""

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

from cmrm import answering, shift
from cmrm.answering import Answered, Group
from cmrm.errors import UserError
from cmrm.prefix import Prefixes
from flows.plan import make_plan
from flows.spec import read_spec
from storage.manifest import Manifest
from storage.rows import read_rows
from storage.store import Store
from tasks.generate import generate_answers
from tasks.generate_job import GenerateJob
from tasks.group import Asked, Groups, Prepared
from tasks.ingest import ingest
from tasks.joined import JoinedJob, join
from tasks.prompts import Showing
from tasks.stage import Job
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
) -> JoinedJob:
    """Ten samples, none of them answered, in four ways; the store is left as it is."""
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
    plan = make_plan(read_spec(spec), store=store.url)
    samples = {job.dataset: do(ingest.do, job)[0] for job in plan.ingest_jobs({})}
    (model,) = plan.by_model()
    (found,) = generate_answers.join(model.generate_jobs(samples, model.steer({})))
    assert isinstance(found, JoinedJob)
    assert (len(found.jobs), found.rows) == (4, 4 * SAMPLES)
    return found


def copy(prepared: JoinedJob, place: Path) -> JoinedJob:
    """The same with a store of its own."""
    store = str(shutil.copytree(prepared.store, place))
    copied = join([replace(job, store=store) for job in prepared.jobs])
    assert isinstance(copied, JoinedJob)
    return copied


@pytest.fixture
def unit(prepared: JoinedJob, tmp_path: Path) -> JoinedJob:
    """Ten samples, none of them answered, in four ways, in a store of the test's own."""
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


def take_away(unit: JoinedJob, places: Sequence[int]) -> None:
    """Let some members be not committed any more."""
    for place in places:
        job = unit.jobs[place]
        (Path(unit.store) / "manifests" / job.stage / f"{job.key}.json").unlink()


@pytest.fixture(scope="module")
def alone(prepared: JoinedJob, tmp_path_factory: pytest.TempPathFactory) -> list[Rows]:
    """The rows of each way answered alone, in another store."""
    unit = copy(prepared, tmp_path_factory.mktemp("alone") / "store")
    return [answer_all(job)[0] for job in unit.jobs]


def watch(
    monkeypatch: pytest.MonkeyPatch, cut: Callable[[int, Iterator[Answered]], Iterator[Answered]]
) -> list[Group]:
    """Let `cut` make of the answers what it will, knowing how many rows there may be; the groups that were asked."""
    groups: list[Group] = []

    def note(given: Iterator[Group]) -> Iterator[Group]:
        for group in given:
            groups.append(group)
            yield group

    def watched(vlm: Any, given: Iterator[Group], *, rows: int, **more: Any) -> Iterator[Answered]:
        yield from cut(rows, answer(vlm, note(given), rows=rows, **more))

    monkeypatch.setattr(answering, "answer", watched)
    return groups


def test_each_way_comes_out_as_if_it_were_answered_alone(unit: JoinedJob, alone: list[Rows]) -> None:
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
    unit: JoinedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    measured: list[tuple[int, ...]] = []
    show, measure = Showing.show, shift.measure_sample_shift

    def count_shown(self: Showing, stored: Any, condition: Any) -> Any:
        if condition == "image":
            opened.append(stored.sample.id)
        return show(self, stored, condition)

    def count_measured(vlm: Any, *, with_image: Any, blocks: Any, **more: Any) -> Any:
        measured.append((len(with_image), *blocks))
        return measure(vlm, with_image=with_image, blocks=blocks, **more)

    monkeypatch.setattr(Showing, "show", count_shown)
    monkeypatch.setattr(shift, "measure_sample_shift", count_measured)
    answer_all(unit)
    assert sorted(opened) == sorted(set(opened))
    assert len(opened) == SAMPLES
    # A quarter of a batch at a time, at both blocks.
    assert measured == [(2, 1, 3)] * 5


def test_a_sample_whose_own_shift_is_not_finite_at_a_ways_block_is_set_aside_in_that_way_alone(
    unit: JoinedJob, alone: list[Rows], monkeypatch: pytest.MonkeyPatch
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
    unit: JoinedJob, alone: list[Rows], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
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
        "generate own image 0–10, 4 ways: out of memory on a batch of 7; going on with batches of 3",
        "generate own image 0–10, 4 ways: out of memory on a batch of 3; going on with batches of 1",
    ]
    manifest = Store.open(unit.store).find("generate", unit.jobs[0].key)
    assert manifest is not None
    provenance = manifest.provenance
    assert (provenance["batch_size"], provenance["smallest_batch_size"]) == (8, 1)


def test_a_single_sample_that_does_not_fit_is_told_of_and_what_is_finished_is_kept(
    unit: JoinedJob, alone: list[Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lack_memory(_rows: int, answered: Iterator[Answered]) -> Iterator[Answered]:
        yield from islice(answered, 1)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch:
        watch(patch, lack_memory)
        with pytest.raises(UserError, match=r"4 ways: out of memory on a single sample, '\d'"):
            answer_all(unit)
    groups = watch(monkeypatch, lambda _rows, answered: answered)
    assert answer_all(unit) == alone
    # One was answered at each of 8, 4, 2 and 1 rows.
    assert sum(len(group.prompts) for group in groups) == SAMPLES - 4


def test_ways_that_got_farther_than_others_are_not_asked_again_what_they_have(
    unit: JoinedJob, alone: list[Rows], monkeypatch: pytest.MonkeyPatch
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
    asked = [len(group.ways_of(row)) for group in groups for row in range(len(group.prompts))]
    assert asked == [1] * 3 + [4] * 7


def test_answers_are_kept_before_anyone_waits(unit: JoinedJob, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare, begun, kept, numbers = Groups.prepare, threading.Event(), list[bool](), count(1)

    def hold(self: Groups, batch: Sequence[Asked]) -> Prepared:
        if next(numbers) == 5:  # there is room for four
            begun.set()
            kept.append(wait_for_part(Path(unit.store)))
        return prepare(self, batch)

    def stop(_rows: int, answered: Iterator[Answered]) -> Iterator[Answered]:
        yield next(answered)
        assert begun.wait(timeout=30)
        raise RuntimeError("it was told to stop")

    monkeypatch.setattr(Groups, "prepare", hold)
    watch(monkeypatch, stop)
    with pytest.raises(RuntimeError, match="told to stop"):
        answer_all(unit)
    assert kept == [True]


def test_memory_that_runs_out_while_room_is_measured_does_not_end_the_unit(
    unit: JoinedJob, alone: list[Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out, failures = Prefixes.lay_out, [torch.OutOfMemoryError("CUDA out of memory.")]

    def lack_memory(*arguments: Any, **more: Any) -> Any:
        if failures:
            raise failures.pop()
        return lay_out(*arguments, **more)

    monkeypatch.setattr(Prefixes, "lay_out", lack_memory)
    assert answer_all(join([replace(job, batch_size=None) for job in unit.jobs])) == alone


def test_a_member_that_is_gone_is_done_alone(
    unit: JoinedJob, alone: list[Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_all(unit)
    take_away(unit, [1])
    groups = watch(monkeypatch, lambda _rows, answered: answered)
    assert answer_all(unit) == alone
    assert {len(group.ways) for group in groups} == {1}


def test_a_block_that_the_model_does_not_have_is_told_before_anything_is_answered(
    unit: JoinedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = watch(monkeypatch, lambda _rows, answered: answered)
    bad = unit.jobs[1]
    assert bad.steering is not None
    far: GenerateJob = replace(bad, steering=replace(bad.steering, blocks=(9,)))
    with pytest.raises(UserError, match="no block 9 in this model"):
        answer_all(join([unit.jobs[0], far]))
    assert not groups
