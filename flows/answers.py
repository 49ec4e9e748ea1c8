"""The answers of a run side by side, read from the store: each sample under each condition and intervention."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from cmrm.datasets.splits import draw
from storage.manifest import Manifest
from storage.rows import need_manifest, read_rows
from storage.store import Store
from tasks.outcomes import Way
from tasks.table import name_way, sort_ways

# A page of more is slow to open; the store has all.
MOST_SAMPLES = 2_000
MOST_ANSWERS = 20_000
MOST_LETTERS = 2_000
# Side by side is for comparing: of more ways the reader chooses.
MOST_OPEN = 8
SEED = 0

WAY = ("model", "condition", "intervention", "alpha")
SAID = ("judge", "verdict", "refused", "score")
SAMPLE = ("dataset", "sample_id", "harmful", "question", "reference", "category")

Place = tuple[str, str]
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one judge said of one answer."""

    judge: str
    verdict: str
    refused: bool | None
    score: float | None


@dataclass(kw_only=True)
class Answered:
    """One answer under one way, cut to 2,000 letters of `letters`, with its verdicts."""

    way: int
    text: str
    letters: int
    verdicts: list[Verdict] = field(default_factory=list)


@dataclass(kw_only=True)
class Asked:
    """One sample with its answers; `changed` says that an intervention changed a verdict on its image."""

    sample: Mapping[str, Any]
    answers: list[Answered] = field(default_factory=list)
    changed: bool = False


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Samples and the ways they were asked in; `total` counts those that there are, shown or not."""

    ways: Sequence[Way]
    samples: Sequence[Asked]
    total: int

    def to_json(self, names: Mapping[str, str]) -> dict[str, Any]:
        """As the page reads them; `names` are what it calls the models."""
        opened = _choose_open(self.ways)
        return {
            "ways": [
                {
                    "model": names.get(way.model, way.model) if len(names) > 1 else "",
                    "name": name_way(way),
                    "open": way in opened,
                }
                for way in self.ways
            ],
            "samples": [
                {
                    **asked.sample,
                    "changed": asked.changed,
                    "answers": [
                        {
                            "way": one.way,
                            "text": one.text,
                            "letters": one.letters,
                            "verdicts": [[v.judge, v.verdict, v.refused, v.score] for v in one.verdicts],
                        }
                        for one in asked.answers
                    ],
                }
                for asked in self.samples
            ],
        }


def read_answers(store: Store, used: Mapping[str, Sequence[str]], *, interventions: Sequence[str]) -> Answers:
    """Read what the stages' manifests hold; `used` gives their keys, `interventions` the order of the spec.

    Of more than 2,000 samples, or 20,000 answers, as many are drawn from each data set as fit, by the question's text.
    Raises `StoreError` when something vanished.
    """
    responses = [*_find(store, "generate", used["generate"])]
    ways = sort_ways(dict.fromkeys(map(_read_way, responses)), interventions)
    answered = {_place(row) for row in _rows(store, responses, "responses", ("dataset", "sample_id"))}
    most = min(MOST_SAMPLES, MOST_ANSWERS // max(1, len(ways)))
    asked = _choose(store, used["ingest"], answered, most=most)
    places = {way: place for place, way in enumerate(ways)}
    answers: dict[tuple[Place, int], Answered] = {}
    for row in _rows(store, responses, "responses", (*WAY, "dataset", "sample_id", "answer")):
        if _place(row) not in asked:
            continue
        way = places[_way_of(row)]
        one = Answered(way=way, text=row["answer"][:MOST_LETTERS], letters=len(row["answer"]))
        answers[_place(row), way] = one
        asked[_place(row)].answers.append(one)
    judged = _find(store, "judge", used["judge"])
    for row in _rows(store, judged, "judgements", (*WAY, "dataset", "sample_id", *SAID)):
        found = answers.get((_place(row), places[_way_of(row)]))
        if found is not None and row["verdict"] != "not_applicable":
            found.verdicts.append(Verdict(**{name: row[name] for name in SAID}))
    for sample in asked.values():
        sample.answers.sort(key=lambda answer: answer.way)
        sample.changed = _has_changed(sample, ways)
    return Answers(ways=ways, samples=[*asked.values()], total=len(answered))


def _choose_open(ways: Sequence[Way]) -> list[Way]:
    """The ways open at first: all if few, else as text, with the image, and the strongest of each intervention."""
    if len(ways) <= MOST_OPEN:
        return list(ways)
    strongest = {(way.model, way.condition, way.intervention): way for way in ways}
    return [way for way in strongest.values() if way.condition in {"query", "image"}][:MOST_OPEN]


def _choose(
    store: Store, keys: Sequence[str], answered: AbstractSet[Place], *, most: int
) -> dict[Place, Asked]:
    """The samples that are shown, in the order of their files."""
    sides = [
        [row for row in _rows(store, [manifest], "samples", SAMPLE) if _place(row) in answered]
        for manifest in _find(store, "ingest", keys)
    ]
    chosen: dict[Place, Asked] = {}
    # Small data sets leave their share to the others.
    for left, side in zip(range(len(sides), 0, -1), sorted(sides, key=len), strict=True):
        share = (most - len(chosen)) // left
        drawn = sorted(side, key=lambda row: (draw(row["question"], seed=SEED), row["sample_id"]))[:share]
        chosen |= {_place(row): Asked(sample=_describe(row)) for row in drawn}
    return {place: chosen[place] for side in sides for row in side if (place := _place(row)) in chosen}


def _describe(row: Row) -> Row:
    texts = {name: (row[name] or "")[:MOST_LETTERS] for name in ("question", "reference", "category")}
    return {"dataset": row["dataset"], "id": row["sample_id"], "harmful": row["harmful"], **texts}


def _has_changed(asked: Asked, ways: Sequence[Way]) -> bool:
    said = {
        (ways[answer.way], verdict.judge): (verdict.verdict, verdict.refused)
        for answer in asked.answers
        for verdict in answer.verdicts
    }
    return any(
        (Way(way.model, way.condition), judge) in said
        and said[Way(way.model, way.condition), judge] != verdict
        for (way, judge), verdict in said.items()
        if way.intervention
    )


def _find(store: Store, stage: str, keys: Iterable[str]) -> Iterator[Manifest]:
    for key in keys:
        yield need_manifest(store, stage, key)


def _rows(store: Store, manifests: Iterable[Manifest], folder: str, columns: Sequence[str]) -> Iterator[Row]:
    for manifest in manifests:
        yield from read_rows(store, manifest, folder, columns).to_pylist()


def _read_way(manifest: Manifest) -> Way:
    content = manifest.content
    steering = content["intervention"] or {}
    return Way(content["name"], content["condition"], content["intervention_name"], steering.get("alpha"))


def _way_of(row: Row) -> Way:
    return Way(*(row[name] for name in WAY))


def _place(row: Row) -> Place:
    return row["dataset"], row["sample_id"]
