"""Ways of answering one slice become one unit of work, whose members keep their own keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cmrm.conditions import Condition, make_meaningless
from cmrm.revision import ModelIdentity
from storage.errors import PartsGoneError
from storage.manifest import Manifest
from storage.store import Store
from tasks.generate_job import GenerateJob
from tasks.joined import MOST_WAYS, JoinedJob, join_ways
from tasks.models import ModelUse
from tasks.parcels import pack_jobs, unpack_jobs
from tasks.prompts import Showing
from tasks.samples import Shard, Slice
from tasks.stage import Job, Stage, make_joining_stage
from tasks.steering import Steering

MODEL = ModelUse(
    identity=ModelIdentity(id="m", revision="1" * 40, folder=Path("m"), model_type="llava"),
    label=None,
    dtype="float32",
    device="cpu",
    attn_implementation="sdpa",
    system=None,
)


def make_job(alpha: float | None = None, *, start: int = 0, condition: Condition = "image") -> GenerateJob:
    steering = None
    if alpha is not None:
        steering = Steering(
            name="CMRM",
            level="sample",
            image="blank",
            method="mean",
            alpha=alpha,
            blocks="all",
            scope="every_step",
            composition="incremental",
            shift=None,
        )
    shard = Shard(dataset="own", ingest="0" * 64, split="target", start=start, stop=start + 8)
    return GenerateJob(
        store="store",
        label=f"own {start}, α={alpha}",
        rows=8,
        slice=Slice(shard=shard, condition=condition, rows=8, digest=f"{start} {condition}"),
        model=MODEL,
        showing=Showing(
            images=None, meaningless=make_meaningless(size=8, color=(255, 255, 255), seed=0), system=None
        ),
        steering=steering,
        max_new_tokens=4,
        batch_size=2,
    )


def test_ways_of_one_slice_are_joined_in_the_order_of_their_first() -> None:
    text, plain, other = make_job(condition="query"), make_job(), make_job(start=8)
    half, whole, other_half = make_job(0.5), make_job(1.0), make_job(0.5, start=8)
    units = join_ways([text, plain, other, half, other_half, whole])
    assert [unit.members() for unit in units] == [(text,), (plain, half, whole), (other, other_half)]
    assert units[0] is text
    assert units[1].label == "own image 0–8, 3 ways"
    assert units[1].rows == 24
    assert join_ways([]) == []


@pytest.mark.parametrize(
    "other",
    [
        replace(make_job(0.5), model=replace(MODEL, dtype="bfloat16")),
        replace(make_job(0.5), max_new_tokens=5),
        replace(make_job(0.5), showing=replace(make_job().showing, system="Be safe.")),
        replace(make_job(0.5), store="elsewhere"),
    ],
    ids=["model", "length of answers", "system line", "store"],
)
def test_jobs_that_differ_in_more_than_the_intervention_stay_apart(other: GenerateJob) -> None:
    assert join_ways([make_job(), other]) == [make_job(), other]


def test_many_ways_are_cut_into_units_of_about_one_size() -> None:
    jobs = [make_job(alpha / 10) for alpha in range(2 * MOST_WAYS + 1)]
    units = join_ways(jobs)
    sizes = [len(unit.members()) for unit in units]
    assert sum(sizes) == len(jobs)
    assert max(sizes) <= MOST_WAYS
    assert max(sizes) - min(sizes) <= 1
    assert [job for unit in units for job in unit.members()] == jobs


def test_a_unit_travels_as_json_and_its_members_keep_their_keys() -> None:
    (unit,) = join_ways([make_job(), make_job(0.5)])
    parcels = json.loads(json.dumps(pack_jobs([unit, make_job()])))
    _, arrived = unpack_jobs("generate", parcels)
    assert arrived == [unit, make_job()]
    assert [job.key for job in arrived[0].members()] == [make_job().key, make_job(0.5).key]


def test_another_member_is_another_key() -> None:
    first, second = (join_ways([make_job(), make_job(alpha)])[0] for alpha in (0.5, 1.0))
    assert first.key != second.key
    assert first.key not in {job.key for job in first.members()}


@dataclass(frozen=True, kw_only=True)
class PartJob(Job):
    """A job of the smallest kind."""

    name: str

    @property
    def stage(self) -> str:
        return "report"

    def content(self) -> dict[str, Any]:
        return {"name": self.name}


@dataclass(frozen=True, kw_only=True)
class UnitJob(PartJob):
    """Several of them."""

    jobs: tuple[PartJob, ...]

    def members(self) -> Sequence[Job]:
        return self.jobs


def make_unit(folder: Path, names: str) -> UnitJob:
    url = Store.create(folder).url
    jobs = tuple(PartJob(store=url, label=name, rows=1, name=name) for name in names)
    return UnitJob(store=url, label=names, rows=len(names), name=names, jobs=jobs)


def commit(job: Job, store: Store) -> Manifest:
    return store.commit(job.stage, job.key, {f"reports/{job.key}.md": b"done"})


def do(stage: Stage[PartJob], unit: Job) -> list[Manifest]:
    return [Manifest.from_json(made.encode()) for made in stage.do(unit)["manifests"]]


def test_what_is_committed_of_a_unit_is_not_done_again(tmp_path: Path) -> None:
    done: list[str] = []

    def work(jobs: Sequence[PartJob], store: Store) -> list[Manifest]:
        done.extend(job.name for job in jobs)
        return [commit(job, store) for job in jobs]

    stage = make_joining_stage("report", work, join=lambda jobs: jobs, place="processor")
    unit = make_unit(tmp_path, "abc")
    before = commit(unit.jobs[1], Store.open(tmp_path))
    assert not stage.is_committed(unit)
    made = do(stage, unit)
    assert done == ["a", "c"]
    assert made[1] == before
    assert [one.key for one in made] == [job.key for job in unit.jobs]
    assert stage.is_committed(unit)
    assert do(stage, unit) == made
    assert done == ["a", "c"]
    # Nothing is kept under the unit's own key.
    assert Store.open(tmp_path).look_up("report", unit.key) is None


def test_members_that_a_quicker_worker_committed_meanwhile_are_its_own(tmp_path: Path) -> None:
    tries: list[list[str]] = []

    def lose_once(jobs: Sequence[PartJob], store: Store) -> list[Manifest]:
        tries.append([job.name for job in jobs])
        made = [commit(job, store) for job in jobs[:2]]
        if len(tries) == 1:
            raise PartsGoneError("parts were removed")
        return made

    stage = make_joining_stage("report", lose_once, join=lambda jobs: jobs, place="processor")
    unit = make_unit(tmp_path, "abc")
    assert [one.key for one in do(stage, unit)] == [job.key for job in unit.jobs]
    assert tries == [["a", "b", "c"], ["c"]]


def test_a_worker_that_is_overtaken_at_one_member_after_the_other_goes_on(tmp_path: Path) -> None:
    tries: list[list[str]] = []

    def come_second(jobs: Sequence[PartJob], store: Store) -> list[Manifest]:
        tries.append([job.name for job in jobs])
        commit(jobs[0], store)
        raise PartsGoneError("parts were removed")

    stage = make_joining_stage("report", come_second, join=lambda jobs: jobs, place="processor")
    unit = make_unit(tmp_path, "abc")
    assert [one.key for one in do(stage, unit)] == [job.key for job in unit.jobs]
    assert tries == [["a", "b", "c"], ["b", "c"], ["c"]]


def test_parts_that_are_gone_time_and_again_with_nothing_committed_end_the_unit(tmp_path: Path) -> None:
    tries: list[list[str]] = []

    def lose(jobs: Sequence[PartJob], _store: Store) -> list[Manifest]:
        tries.append([job.name for job in jobs])
        raise PartsGoneError("parts were removed")

    stage = make_joining_stage("report", lose, join=lambda jobs: jobs, place="processor")
    with pytest.raises(PartsGoneError):
        do(stage, make_unit(tmp_path, "ab"))
    assert len(tries) == 3


def test_a_unit_of_one_way_is_no_unit() -> None:
    assert not any(isinstance(unit, JoinedJob) for unit in join_ways([make_job(), make_job(start=8)]))
