"""Read the answers of a run from the store for the report page: each sample in every arm, with its verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from heapq import nsmallest
from typing import Any, NamedTuple

from cmrm.datasets.splits import draw
from cmrm.prompts.reasoning import ReasoningMarks, SplitAnswer, split_trace
from storage.records.manifest import Manifest
from storage.shards.rows import iterate_all, need_manifest
from storage.store import Store
from tasks.core.stage_name import ANSWERS, StageName
from tasks.report.outcomes import Arm, find_arm
from tasks.report.table import sort_arms
from tasks.shards.answers import find_judged_marks

# A larger page is slow to open; the store has all answers.
MOST_SAMPLES = 10_000
MOST_ANSWERS = 100_000
MOST_LETTERS = 2_000
# Of a judge's own words.
MOST_RAW = 500
# Arms shown at first; of more arms the reader chooses.
MOST_OPEN = 8
SEED = 0

ARM = ("model", "condition", "intervention", "alpha")
SAID = ("judge", "verdict", "refused", "score", "raw")
SAMPLE = (
    "dataset",
    "sample_id",
    "harmful",
    "question",
    "reference",
    "category",
    "image",
    "image_digest",
    "media",
)

SampleKey = tuple[str, str]
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one judge said of one answer; `raw` are its own words, truncated to 500 characters."""

    judge: str
    verdict: str
    refused: bool | None
    score: float | None
    raw: str | None = None


@dataclass(kw_only=True)
class Answered:
    """One final answer in one arm, truncated to 2,000 of its `letters` characters, with its verdicts.

    `trace` is that of a model that reasons, truncated alike, of `trace_letters` characters; '' where there is none.
    """

    arm: int
    text: str
    letters: int
    trace: str = ""
    trace_letters: int = 0
    verdicts: list[Verdict] = field(default_factory=list)


@dataclass(kw_only=True)
class AnsweredSample:
    """One sample with its answers; `changed` if an intervention changed a verdict under the same condition.

    `flipped` if a verdict is another in another run of the page, and the same arm's.
    `sample` is its row, with texts cut; `place`, from 0 to 1, says how early it is drawn where there are too many.
    """

    sample: Mapping[str, Any]
    place: float
    answers: list[Answered] = field(default_factory=list)
    changed: bool = False
    flipped: bool = False

    @property
    def key(self) -> SampleKey:
        return _sample_key(self.sample)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Samples and arms of the page; `total` counts all answered samples, shown or not.

    On a page of several runs `references` are the numbers of the first run's same arms, None for its own.
    """

    arms: Sequence[Arm]
    samples: Sequence[AnsweredSample]
    total: int
    references: Sequence[int | None] = ()

    def draw(self, most: int) -> Answers:
        """Draw at most so many of the samples, as `read_answers` does: those of fewer are among those of more."""
        datasets: dict[str, list[_Place]] = {}
        for asked in self.samples:
            datasets.setdefault(asked.sample["dataset"], []).append(_Place(asked.place, asked.key))
        kept = _draw([_Asked.of(places, most=most) for places in datasets.values()], most=most)
        return replace(self, samples=[asked for asked in self.samples if asked.key in kept])


def read_answers(
    store: Store,
    used: Mapping[str, Sequence[str]],
    *,
    interventions: Sequence[str],
    first: AbstractSet[SampleKey] = frozenset(),
) -> Answers:
    """Read answers and verdicts; `used` gives the keys of each stage, `interventions` their order in the spec.

    Above 10,000 samples or 100,000 answers, samples are drawn evenly from the data sets, by the question's text
    and `first` before others. Raises `StoreError` if a file is missing.
    """
    responses = [made for stage in ANSWERS for made in _find(store, stage, used.get(stage, ()))]
    arms = sort_arms(dict.fromkeys(find_arm(made.content) for made in responses), interventions)
    keys = iterate_all(store, responses, "responses", ("dataset", "sample_id"))
    answered = {_sample_key(row) for row in keys}
    asked = _choose(store, used[StageName.INGEST], answered, most=limit_samples(len(arms)), first=first)
    arm_numbers = {arm: number for number, arm in enumerate(arms)}
    answers: dict[tuple[SampleKey, int], Answered] = {}
    judged = [*_find(store, StageName.JUDGE, used[StageName.JUDGE])]
    marks = find_judged_marks(judged)
    for made in responses:
        for row in iterate_all(store, [made], "responses", (*ARM, "dataset", "sample_id", "answer")):
            if _sample_key(row) not in asked:
                continue
            arm = arm_numbers[_arm_of(row)]
            one = _cut(arm, row["answer"], marks.get(made.key))
            answers[_sample_key(row), arm] = one
            asked[_sample_key(row)].answers.append(one)
    for row in iterate_all(store, judged, "judgements", (*ARM, "dataset", "sample_id", *SAID)):
        found = answers.get((_sample_key(row), arm_numbers[_arm_of(row)]))
        if found is not None and row["verdict"] != "not_applicable":
            raw = row["raw"] and _shorten(row["raw"], MOST_RAW)
            found.verdicts.append(Verdict(**{**{name: row[name] for name in SAID}, "raw": raw}))
    for sample in asked.values():
        sample.answers.sort(key=lambda answer: answer.arm)
        sample.changed = _has_changed(sample, arms)
    return Answers(arms=arms, samples=[*asked.values()], total=len(answered))


def _cut(arm: int, answer: str, marks: ReasoningMarks | None) -> Answered:
    """Cut an answer to what a page shows: the final answer that its judges were given, and its trace."""
    parts = SplitAnswer(trace=None, final=answer) if marks is None else split_trace(answer, marks)
    text, trace = parts.final or "", parts.trace or ""
    return Answered(
        arm=arm,
        text=text[:MOST_LETTERS],
        letters=len(text),
        trace=trace[:MOST_LETTERS],
        trace_letters=len(trace),
    )


def limit_samples(arms: int) -> int:
    """How many samples a page shows at most, each answered in so many arms."""
    return min(MOST_SAMPLES, MOST_ANSWERS // max(1, arms))


def choose_open(arms: Sequence[Arm]) -> list[Arm]:
    """Choose the arms shown at first: all if few, else query, image, and the strongest α of each intervention."""
    if len(arms) <= MOST_OPEN:
        return list(arms)
    strongest = {(arm.model, arm.condition, arm.intervention): arm for arm in arms}
    return [arm for arm in strongest.values() if arm.condition in {"query", "image"}][:MOST_OPEN]


def _choose(
    store: Store,
    keys: Sequence[str],
    answered: AbstractSet[SampleKey],
    *,
    most: int,
    first: AbstractSet[SampleKey],
) -> dict[SampleKey, AnsweredSample]:
    """Choose the samples to show, in the order of their files; of the others some thousand are in memory at a time."""
    manifests = [*_find(store, StageName.INGEST, keys)]
    datasets = [
        _Asked.of(
            (
                _Place(_place(row, first), _sample_key(row))
                for row in iterate_all(store, [manifest], "samples", ("dataset", "sample_id", "question"))
                if _sample_key(row) in answered
            ),
            most=most,
        )
        for manifest in manifests
    ]
    chosen = _draw(datasets, most=most)
    return {
        _sample_key(row): AnsweredSample(sample=_describe(row), place=_place(row, first))
        for row in iterate_all(store, manifests, "samples", SAMPLE)
        if _sample_key(row) in chosen
    }


class _Place(NamedTuple):
    """How early a sample is drawn, from 0 to 1, and its key, which decides between equal places."""

    place: float
    key: SampleKey


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The number of a data set's samples, and the places of those that may be drawn, in this order."""

    count: int
    earliest: Sequence[_Place]

    @classmethod
    def of(cls, places: Iterable[_Place], *, most: int) -> _Asked:
        total = 0

        def counted() -> Iterator[_Place]:
            nonlocal total
            for total, place in enumerate(places, start=1):  # noqa: B007 - read below
                yield place

        earliest = nsmallest(most, counted())
        return cls(count=total, earliest=earliest)


def _draw(datasets: Sequence[_Asked], *, most: int) -> set[SampleKey]:
    """Draw at most so many of the data sets' samples, evenly, by the question's text."""
    chosen: set[SampleKey] = set()
    # Small data sets leave the rest of their share to larger ones.
    for left, own in zip(
        range(len(datasets), 0, -1), sorted(datasets, key=lambda one: one.count), strict=True
    ):
        share = (most - len(chosen)) // left
        chosen.update(one.key for one in own.earliest[:share])
    return chosen


def _place(row: Row, first: AbstractSet[SampleKey]) -> float:
    return 0.0 if _sample_key(row) in first else draw(row["question"], seed=SEED)


def _describe(row: Row) -> Row:
    texts = {name: _shorten(row[name], MOST_LETTERS) for name in ("question", "reference", "category")}
    return {**{name: row[name] for name in SAMPLE}, **texts}


def _shorten(text: str | None, most: int) -> str:
    """Truncate a text, which then says so itself."""
    text = text or ""
    return text if len(text) <= most else f"{text[:most]} … (truncated)"


def _has_changed(asked: AnsweredSample, arms: Sequence[Arm]) -> bool:
    said = {
        (arms[answer.arm], verdict.judge): (verdict.verdict, verdict.refused)
        for answer in asked.answers
        for verdict in answer.verdicts
    }
    return any(
        (Arm(arm.model, arm.condition), judge) in said
        and said[Arm(arm.model, arm.condition), judge] != verdict
        for (arm, judge), verdict in said.items()
        if arm.intervention
    )


def _find(store: Store, stage: StageName, keys: Iterable[str]) -> Iterator[Manifest]:
    for key in keys:
        yield need_manifest(store, stage, key)


def _arm_of(row: Row) -> Arm:
    return Arm(*(row[name] for name in ARM))


def _sample_key(row: Mapping[str, Any]) -> SampleKey:
    return row["dataset"], row["sample_id"]
