"""A judge's failures: a bad verdict is refused with its row named, a bad sample is quarantined, a broken judge ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import tasks.judge.stage
from cmrm.errors import UserError
from cmrm.judges import Answer, Judge, Usage, Verdict
from cmrm.judges.judge import Field
from cmrm.prompts.conditions import Condition, make_meaningless
from storage.errors import StoreError
from storage.records.hashing import stage_key
from storage.records.manifest import Manifest
from storage.shards.rows import read_rows
from storage.store import Store
from storage.tables.arrow import from_rows, table_path
from storage.tables.parquet import read_parquet, to_parquet
from tasks.core.stage_name import StageName
from tasks.judge.loaded import JudgeUse
from tasks.judge.stage import JudgeJob
from tasks.report.stage import _count_quarantined
from tasks.report.summary import QuarantineCount
from tasks.shards.prompts import PromptBuilder
from tasks.shards.samples import Shard, Slice
from tests.parts import wait_for_part

GOOD = Verdict(verdict="safe")
SHOWING = PromptBuilder(
    images=None,
    meaningless=make_meaningless(size=8, color=(255, 255, 255), seed=0),
    system=None,
)
Rule = Callable[[str, int], Verdict]


@dataclass(frozen=True, kw_only=True)
class RuledJudge(Judge):
    """Gives what a function of an answer and of the number of answers before it says."""

    kind: ClassVar[str] = "ruled"
    reads: ClassVar[frozenset[Field]] = frozenset(("answer",))

    rule: Rule
    asked: list[str]
    batch_size: int = 4

    def judge_each(self, answers: Sequence[Answer]) -> Iterator[tuple[int, Verdict]]:
        for place, answer in enumerate(answers):
            self.asked.append(answer.answer)
            yield place, self.rule(answer.answer, len(self.asked))

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        return [verdict for _, verdict in self.judge_each(answers)]

    def spec(self) -> Mapping[str, Any]:
        return {"judge": self.kind}


@dataclass(frozen=True, kw_only=True)
class WholeJudge(RuledJudge):
    """The same, all verdicts of a batch at once."""

    def judge_each(self, answers: Sequence[Answer]) -> Iterator[tuple[int, Verdict]]:
        yield from [*super().judge_each(answers)]


def commit(store: Store, stage: str, kind: str, rows: list[dict[str, Any]]) -> str:
    key = stage_key(stage, {"rows": rows})
    store.commit(stage, key, {table_path(kind, key): to_parquet(from_rows(rows, kind), kind)})
    return key


class Place:
    """A store with so many answers, "a0" to sample "0" and so on, and judges to put before them."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        self.store = Store.create(folder)
        self.asked: list[str] = []

    def judge(
        self,
        rule: Rule,
        *,
        samples: int = 8,
        batch_size: int = 4,
        kind: type[RuledJudge] = RuledJudge,
        media: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    ) -> Manifest:
        condition: Condition = "query" if media is None else "blank"
        self.asked.clear()
        judge = kind(rule=rule, asked=self.asked, batch_size=batch_size)
        self.patch.setattr(tasks.judge.stage, "load_judge", lambda _use: judge)
        self.patch.setattr(tasks.judge.stage, "describe_spec", lambda _use: judge.spec())
        names = [str(number) for number in range(samples)]
        ingest = commit(
            self.store,
            "ingest",
            "samples",
            [
                {
                    "dataset": "d",
                    "sample_id": name,
                    "split": "target",
                    "harmful": True,
                    "question": "q",
                    "media": (media or {}).get(name),
                }
                for name in names
            ],
        )
        row = {"model": "m", "dataset": "d", "condition": condition, "intervention": "", "answer_digest": "0"}
        responses = commit(
            self.store,
            "generate",
            "responses",
            [row | {"sample_id": name, "answer": f"a{name}"} for name in names],
        )
        shard = Shard(dataset="d", ingest=ingest, split="target", start=0, stop=samples)
        job = JudgeJob(
            store=self.store.url,
            label="d query, ruled",
            rows=samples,
            judge=JudgeUse(kind="ruled", name="ruled", options={}),
            responses=responses,
            slice=Slice(shard=shard, condition=condition, rows=samples, digest="2" * 64),
            showing=None if media is None else SHOWING,
            digest=str(samples),
        )
        return tasks.judge.stage.give_verdicts(job, self.store)

    def read(self, manifest: Manifest) -> list[str]:
        return sorted(read_rows(self.store, manifest, "judgements")["sample_id"].to_pylist())

    def read_quarantine(self, manifest: Manifest) -> dict[str, str]:
        found = [
            row
            for path in manifest.paths("quarantine")
            for row in read_parquet(self.store.local_path(path)).to_pylist()
        ]
        assert {row["stage"] for row in found} <= {"judge"}
        return {row["sample_id"]: row["reason"] for row in found}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path / "store", monkeypatch)


def fail_on(
    *names: str, kind: type[Exception] = ValueError, said: tuple[str, ...] = ("no such word",)
) -> Rule:
    def rule(answer: str, _count: int) -> Verdict:
        if answer.removeprefix("a") in names:
            raise kind(*said)
        return GOOD

    return rule


def test_a_judge_that_looks_at_one_image_gives_no_verdict_on_several(place):
    several = [{"kind": "image", "name": name, "digest": name} for name in ("a.png", "b.png")]
    manifest = place.judge(fail_on(), media={"2": several, "5": several})
    rows = read_rows(place.store, manifest, "judgements").to_pylist()
    verdicts = {row["sample_id"]: (row["verdict"], row["raw"]) for row in rows}
    assert verdicts.keys() == {str(number) for number in range(8)}
    for name, (verdict, raw) in verdicts.items():
        if name in ("2", "5"):
            assert verdict == "not_applicable"
            assert raw == "the judge looks at one image, and the question has several, video or sound"
        else:
            assert verdict == "safe"
    assert sorted(place.asked) == [f"a{number}" for number in (0, 1, 3, 4, 6, 7)]


@pytest.mark.parametrize("kind", [RuledJudge, WholeJudge])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 8])
@pytest.mark.parametrize("bad", [("0",), ("3",), ("7",), ("0", "1"), ("6", "7"), ("0", "1", "2", "3", "7")])
def test_samples_on_which_a_judge_raises_are_quarantined_and_the_others_judged(place, bad, batch_size, kind):
    made = place.judge(fail_on(*bad), batch_size=batch_size, kind=kind)
    assert place.read(made) == [name for name in map(str, range(8)) if name not in bad]
    assert place.read_quarantine(made) == dict.fromkeys(bad, "judge ruled: ValueError: no such word")


def test_a_report_counts_what_a_judge_could_not_judge_by_its_reason(place):
    made = {stage: [] for stage in ("ingest", "embed", "generate", "overhead")}
    made["judge"] = [place.judge(fail_on("2", "5"))]
    reason = "judge ruled: ValueError: no such word"
    assert _count_quarantined(place.store, made) == [
        QuarantineCount(stage=StageName.JUDGE, dataset="d", reason=reason, rows=2)
    ]


def test_a_reason_is_one_line_of_at_most_300_characters_that_can_be_stored(place):
    made = place.judge(fail_on("2", kind=KeyError, said=(f"half \ud83d\n{'x' * 1000}",)))
    (reason,) = place.read_quarantine(made).values()
    assert reason.startswith("judge ruled: KeyError: 'half ")
    assert len(reason) == 300
    assert "\n" not in reason


def test_an_error_without_words_is_named_by_its_kind(place):
    made = place.judge(fail_on("2", kind=AssertionError, said=()))
    assert place.read_quarantine(made) == {"2": "judge ruled: AssertionError"}


@pytest.mark.parametrize("kind", [RuledJudge, WholeJudge])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_judge_that_fails_on_all_with_one_error_is_broken_and_nothing_is_quarantined(
    place, batch_size, kind
):
    with pytest.raises(ValueError, match="no such word"):
        place.judge(fail_on(*map(str, range(8))), batch_size=batch_size, kind=kind)


def test_a_judge_that_breaks_midway_quarantines_no_later_sample(place):
    def rule(answer: str, count: int) -> Verdict:
        if count > 3:
            raise ConnectionError("the endpoint is gone")
        return GOOD

    with pytest.raises(ConnectionError, match="the endpoint is gone"):
        place.judge(rule)
    # What it judged before is kept.
    assert wait_for_part(place.folder)
    made = place.judge(lambda _answer, _count: GOOD)
    assert len(place.read(made)) == 8
    assert len(place.asked) == 5


def test_an_only_sample_cannot_tell_a_broken_judge_from_a_bad_sample(place):
    with pytest.raises(ValueError, match="no such word"):
        place.judge(fail_on("0"), samples=1)


@pytest.mark.parametrize(
    "error", [UserError("log in first"), StoreError("the disk is full"), KeyboardInterrupt(), SystemExit(3)]
)
def test_what_is_no_samples_fault_ends_the_job(place, error):
    def rule(answer: str, count: int) -> Verdict:
        if answer == "a2":
            raise error
        return GOOD

    with pytest.raises(type(error)):
        place.judge(rule)
    assert place.asked == ["a0", "a1", "a2"]


def test_a_shortage_of_memory_halves_the_batch_and_quarantines_nothing(place):
    def rule(answer: str, count: int) -> Verdict:
        if count == 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 MiB")
        return GOOD

    made = place.judge(rule)
    assert len(place.read(made)) == 8
    assert place.read_quarantine(made) == {}
    assert made.provenance["smallest_batch_size"] == 2


FAULTS = [
    ({"score": math.nan}, "score = nan, which is no finite number of single precision"),
    ({"score": -math.inf}, "score = -inf, which"),
    ({"score": np.float32("nan")}, "score = "),
    ({"score": 1e300}, r"score = 1e\+300, which"),
    ({"score": 10**400}, "score = 1000"),
    ({"score": "7"}, "score = '7', which"),
    ({"score": None}, "score = None, which"),
    ({"score": 1.0, "reference_score": math.nan}, "reference_score = nan, which"),
    ({"verdict": "sure"}, "verdict = 'sure', which is none of unsafe, safe"),
    ({"score": 1.0, "refused": "no"}, "refused = 'no', which is neither"),
    ({"score": 1.0, "raw": None}, "raw = None, which is no text"),
    ({"score": 1.0, "usage": Usage(prompt_tokens=-1, completion_tokens=0)}, "usage = Usage"),
]


@pytest.mark.parametrize(("given", "said"), FAULTS)
def test_a_verdict_that_cannot_be_counted_is_refused_with_sample_and_field_named(place, given, said):
    def rule(answer: str, count: int) -> Verdict:
        return Verdict(**{"verdict": "scored"} | given) if answer == "a2" else GOOD

    with pytest.raises(UserError, match=f"judge 'ruled' gave sample '2' of 'd' {said}") as told:
        place.judge(rule)
    assert "\n" not in str(told.value)
    assert wait_for_part(place.folder)


@pytest.mark.parametrize("given", [None, "safe", {"verdict": "safe"}])
def test_what_is_no_verdict_is_refused_with_its_sample_named(place, given):
    with pytest.raises(UserError, match=r"judge 'ruled' gave sample '2' of 'd' .*, which is no Verdict"):
        place.judge(lambda answer, _count: given if answer == "a2" else GOOD)


@pytest.mark.parametrize(
    "score", [0, -3.5, True, np.float32(0.5), np.int64(7), Fraction(1, 2), 3.4e38, 5e-324]
)
def test_every_kind_of_finite_number_is_a_score(place, score):
    given: Any = {"score": score, "refused": np.bool_(0)}
    made = place.judge(lambda _answer, _count: Verdict(verdict="scored", **given))
    assert set(read_rows(place.store, made, "judgements")["score"].to_pylist()) == {float(score)}
