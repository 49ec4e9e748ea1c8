"""Arms of one shard form one job group, whose members keep their own keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cmrm.models.revision import ModelIdentity
from cmrm.prompts.conditions import Condition, make_meaningless
from storage.errors import PartsGoneError
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.core.models import ModelUse
from tasks.core.stage import Job, Stage, make_joining_stage
from tasks.generate.job import GenerateJob
from tasks.generate.job_group import MOST_ARMS, JobGroup, group_jobs
from tasks.job_codec import pack_jobs, unpack_jobs
from tasks.shards.prompts import PromptBuilder
from tasks.shards.samples import Shard, Slice
from tasks.states.steering import DefenceUse, StackUse, Steering, Use, list_leaves

MODEL = ModelUse(
    identity=ModelIdentity(id="m", revision="1" * 40, folder=Path("m"), model_type="llava"),
    label=None,
    dtype="float32",
    device="cpu",
    attn_implementation="sdpa",
    system=None,
    image_backend="pillow 13.0.0",
)

STEERING = Steering(
    name="CMRM",
    level="sample",
    image="blank",
    method="mean",
    alpha=1.0,
    blocks="all",
    scope="every_step",
    composition="incremental",
    shift=None,
)


def make_job(alpha: float | None = None, *, start: int = 0, condition: Condition = "image") -> GenerateJob:
    steering = None if alpha is None else replace(STEERING, alpha=alpha)
    shard = Shard(dataset="own", ingest="0" * 64, split="target", start=start, stop=start + 8)
    return GenerateJob(
        store="store",
        label=f"own {start}, α={alpha}",
        rows=8,
        slice=Slice(shard=shard, condition=condition, rows=8, digest=f"{start} {condition}"),
        model=MODEL,
        showing=PromptBuilder(
            images=None, meaningless=make_meaningless(size=8, color=(255, 255, 255), seed=0), system=None
        ),
        steering=steering,
        max_new_tokens=4,
        batch_size=2,
    )


def test_arms_of_one_shard_are_grouped_in_the_order_of_their_first_job() -> None:
    text, plain, other = make_job(condition="query"), make_job(), make_job(start=8)
    half, whole, other_half = make_job(0.5), make_job(1.0), make_job(0.5, start=8)
    groups = group_jobs([text, plain, other, half, other_half, whole])
    assert [group.members() for group in groups] == [(text,), (plain, half, whole), (other, other_half)]
    assert groups[0] is text
    assert groups[1].label == "own image 0–8, 3 arms"
    assert groups[1].rows == 24
    assert group_jobs([]) == []


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
    assert group_jobs([make_job(), other]) == [make_job(), other]


def test_many_arms_are_split_into_job_groups_of_similar_size() -> None:
    jobs = [make_job(alpha / 10) for alpha in range(2 * MOST_ARMS + 1)]
    groups = group_jobs(jobs)
    sizes = [len(group.members()) for group in groups]
    assert sum(sizes) == len(jobs)
    assert max(sizes) <= MOST_ARMS
    assert max(sizes) - min(sizes) <= 1
    assert [job for group in groups for job in group.members()] == jobs


def test_a_job_group_encoded_as_json_keeps_the_keys_of_its_members() -> None:
    (group,) = group_jobs([make_job(), make_job(0.5)])
    encoded = json.loads(json.dumps(pack_jobs([group, make_job()])))
    _, arrived = unpack_jobs("generate", encoded)
    assert arrived == [group, make_job()]
    assert [job.key for job in arrived[0].members()] == [make_job().key, make_job(0.5).key]


USES: tuple[Use, ...] = (
    DefenceUse(
        name="project", kind="project", alpha=1.0, options={"blocks": [1, 2], "count": 2}, direction="d" * 64
    ),
    DefenceUse(name="project", kind="project", alpha=1.0, options={"blocks": "all"}, direction="d" * 64),
    DefenceUse(name="ask", kind="prompt", alpha=None, options={"template": "be safe. {question}"}),
    DefenceUse(name="mix", kind="coca", alpha=4.0),
    DefenceUse(name="turn", kind="random", alpha=0.5, options={"seed": 3}, shift="e" * 64),
)


@pytest.mark.parametrize(
    "use", [*USES, StackUse(name="all", parts=(*USES[:4], STEERING))], ids=lambda use: use.name
)
def test_a_job_under_any_kind_of_intervention_travels_as_json_and_keeps_its_key(use: Use) -> None:
    job = replace(make_job(), steering=use)
    (group,) = group_jobs([job, make_job(0.5)])
    _, (alone, together) = unpack_jobs("generate", json.loads(json.dumps(pack_jobs([job, group]))))
    assert (alone, together) == (job, group)
    assert (alone.key, together.key) == (job.key, group.key)
    assert isinstance(alone, GenerateJob)
    assert type(alone.steering) is type(use)
    assert list(map(type, list_leaves(alone.steering))) == list(map(type, list_leaves(use)))
    assert len({replace(make_job(), steering=one).key for one in USES}) == len(USES)


def test_another_member_is_another_key() -> None:
    first, second = (group_jobs([make_job(), make_job(alpha)])[0] for alpha in (0.5, 1.0))
    assert first.key != second.key
    assert first.key not in {job.key for job in first.members()}


@dataclass(frozen=True, kw_only=True)
class MemberJob(Job):
    """A job of the smallest kind."""

    name: str

    @property
    def stage(self) -> str:
        return "report"

    def content(self) -> dict[str, Any]:
        return {"name": self.name}


@dataclass(frozen=True, kw_only=True)
class GroupJob(MemberJob):
    """Several of them."""

    jobs: tuple[MemberJob, ...]

    def members(self) -> Sequence[Job]:
        return self.jobs


def make_group(folder: Path, names: str) -> GroupJob:
    url = Store.create(folder).url
    jobs = tuple(MemberJob(store=url, label=name, rows=1, name=name) for name in names)
    return GroupJob(store=url, label=names, rows=len(names), name=names, jobs=jobs)


def commit(job: Job, store: Store) -> Manifest:
    return store.commit(job.stage, job.key, {f"reports/{job.key}.md": b"done"})


def do(stage: Stage[MemberJob], group: Job) -> list[Manifest]:
    return [Manifest.from_json(made.encode()) for made in stage.do(group)["manifests"]]


def test_committed_members_of_a_job_group_are_not_run_again(tmp_path: Path) -> None:
    done: list[str] = []

    def work(jobs: Sequence[MemberJob], store: Store) -> list[Manifest]:
        done.extend(job.name for job in jobs)
        return [commit(job, store) for job in jobs]

    stage = make_joining_stage("report", work, join=lambda jobs: jobs, place="processor")
    group = make_group(tmp_path, "abc")
    before = commit(group.jobs[1], Store.open(tmp_path))
    assert not stage.is_committed(group)
    made = do(stage, group)
    assert done == ["a", "c"]
    assert made[1] == before
    assert [one.key for one in made] == [job.key for job in group.jobs]
    assert stage.is_committed(group)
    assert do(stage, group) == made
    assert done == ["a", "c"]
    # Nothing is committed under the group's own key.
    assert Store.open(tmp_path).look_up("report", group.key) is None


def test_members_that_another_worker_committed_first_are_reused(tmp_path: Path) -> None:
    tries: list[list[str]] = []

    def lose_once(jobs: Sequence[MemberJob], store: Store) -> list[Manifest]:
        tries.append([job.name for job in jobs])
        made = [commit(job, store) for job in jobs[:2]]
        if len(tries) == 1:
            raise PartsGoneError("parts were removed")
        return made

    stage = make_joining_stage("report", lose_once, join=lambda jobs: jobs, place="processor")
    group = make_group(tmp_path, "abc")
    assert [one.key for one in do(stage, group)] == [job.key for job in group.jobs]
    assert tries == [["a", "b", "c"], ["c"]]


def test_a_worker_that_is_overtaken_at_each_member_in_turn_continues(tmp_path: Path) -> None:
    tries: list[list[str]] = []

    def come_second(jobs: Sequence[MemberJob], store: Store) -> list[Manifest]:
        tries.append([job.name for job in jobs])
        commit(jobs[0], store)
        raise PartsGoneError("parts were removed")

    stage = make_joining_stage("report", come_second, join=lambda jobs: jobs, place="processor")
    group = make_group(tmp_path, "abc")
    assert [one.key for one in do(stage, group)] == [job.key for job in group.jobs]
    assert tries == [["a", "b", "c"], ["b", "c"], ["c"]]


def test_partial_files_removed_repeatedly_with_nothing_committed_fail_the_group(tmp_path: Path) -> None:
    tries: list[list[str]] = []

    def lose(jobs: Sequence[MemberJob], _store: Store) -> list[Manifest]:
        tries.append([job.name for job in jobs])
        raise PartsGoneError("parts were removed")

    stage = make_joining_stage("report", lose, join=lambda jobs: jobs, place="processor")
    with pytest.raises(PartsGoneError):
        do(stage, make_group(tmp_path, "ab"))
    assert len(tries) == 3


def test_a_single_arm_makes_no_job_group() -> None:
    assert not any(isinstance(group, JobGroup) for group in group_jobs([make_job(), make_job(start=8)]))
