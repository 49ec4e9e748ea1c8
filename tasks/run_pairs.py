"""Two runs' verdicts on the same samples: what can be paired, and why the rest cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from storage.identity import digest
from storage.manifest import Manifest
from storage.rows import iterate_all
from storage.store import Store
from tasks.outcomes import JUDGED, Column, Outcomes, SampleInfo, Values, Way

Reason = Literal["only_before", "only_after", "changed", "parse_error", "not_judged"]
REASONS: tuple[Reason, ...] = ("only_before", "only_after", "changed", "parse_error", "not_judged")
SAMPLE = (
    "dataset",
    "sample_id",
    "harmful",
    "question",
    "caption",
    "reference",
    "split_by",
    "text_digest",
    "image_digest",
)
# What a judge made of an answer; 0 is that there was none, or that it was not its business.
READ, UNREADABLE = 1, 2
# The only condition that shows a sample's own image.
SHOWS_IMAGE = "image"

Place = tuple[str, str]
Flags = NDArray[np.int8]


@dataclass(kw_only=True)
class Side:
    """One run's verdicts: what they come to, how each judge fared with each sample, and what each sample is.

    `texts` and `images` are digests of what decides the verdict and of the image's bytes, a sample each. Memory is
    one byte a sample, way and judge beside that of `Outcomes`. Not frozen, since verdicts are added shard by shard.
    """

    outcomes: Outcomes
    texts: Sequence[str]
    images: Sequence[str | None]
    read: dict[tuple[Way, str], Flags] = field(default_factory=dict)

    @property
    def places(self) -> list[Place]:
        """Where each sample is from."""
        return [(one.dataset, one.sample_id) for one in self.outcomes.samples]

    def judges(self) -> list[str]:
        """The judges, as they came."""
        return list(dict.fromkeys(judge for _, judge in self.read))

    def add(self, verdicts: Iterable[Mapping[str, Any]]) -> None:
        """Count rows of `judgements`, and keep how each judge fared."""
        self.outcomes.add(self._note(verdicts))

    def _note(self, verdicts: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        places = {place: number for number, place in enumerate(self.places)}
        for row in verdicts:
            key = Way(*(row[name] for name in Way._fields)), row["judge"]
            if key not in self.read:
                self.read[key] = np.zeros(len(places), dtype=np.int8)
            if row["verdict"] != "not_applicable":
                state = UNREADABLE if row["verdict"] == "parse_error" else READ
                self.read[key][places[row["dataset"], row["sample_id"]]] = state
            yield row


def make_side(samples: Iterable[Mapping[str, Any]]) -> Side:
    """A side of rows of `samples`, without verdicts yet."""
    infos, texts, images = [], [], []
    for row in samples:
        split_by = row["split_by"] or row["question"]
        infos.append(
            SampleInfo(split_by=split_by, **{name: row[name] for name in ("dataset", "sample_id", "harmful")})
        )
        text = row["text_digest"] or digest({"question": row["question"], "caption": row["caption"]})
        texts.append(digest([text, row["harmful"], row["reference"]]))
        images.append(row["image_digest"])
    return Side(outcomes=Outcomes(samples=infos), texts=texts, images=images)


def read_side(
    store: Store, *, ingested: Sequence[Manifest], judged: Sequence[Manifest], labels: Mapping[str, str]
) -> Side:
    """Read one run's samples and verdicts; `labels` gives its models' names in common, others are left out."""
    side = make_side(iterate_all(store, ingested, "samples", SAMPLE))
    side.add(
        {**row, "model": labels[row["model"]]}
        for row in iterate_all(store, judged, "judgements", JUDGED)
        if row["model"] in labels
    )
    return side


class RunPairs:
    """Two sides in one order of samples: those of the earlier run, then those that only the later one has."""

    def __init__(self, before: Side, after: Side) -> None:
        self.before, self.after = before, after
        self.places = list(dict.fromkeys([*before.places, *after.places]))
        self._orders = [_order(side, self.places) for side in (before, after)]
        old, new = self._orders
        self._only_before, self._only_after = new < 0, old < 0
        self.common = ~(self._only_before | self._only_after)
        self._same_text = self._is_same(before.texts, after.texts)
        self._same_image = self._is_same(before.images, after.images)

    def ways(self) -> dict[Way, None]:
        """The ways of asking that both runs have, as they came in the later one."""
        return {way: None for way in self.after.outcomes.ways if way in self.before.outcomes.ways}

    def judges(self) -> list[str]:
        """The judges that both runs have."""
        return [judge for judge in self.after.judges() if judge in self.before.judges()]

    def columns(self) -> list[Column]:
        """What either run counted by a judge that both have."""
        found = dict.fromkeys([*self.before.outcomes.columns(), *self.after.outcomes.columns()])
        return [column for column in found if column.judge in self.judges()]

    def get(self, way: Way, column: Column) -> tuple[Values, Values]:
        """One number a sample before and after, both NaN where they cannot be paired."""
        old, new = (
            _arrange(side.outcomes.get(way, column), order, np.nan)
            for side, order in zip((self.before, self.after), self._orders, strict=True)
        )
        apart = ~self._is_paired(way) | np.isnan(old) | np.isnan(new)
        old[apart] = new[apart] = np.nan
        return old, new

    def count_unpaired(self, way: Way, judge: str) -> dict[str, int]:
        """How many answers that a judge saw in either run have no counterpart, by the first reason that holds."""
        nothing = np.zeros(0, dtype=np.int8)
        old, new = (
            _arrange(side.read.get((way, judge), nothing), order, 0)
            for side, order in zip((self.before, self.after), self._orders, strict=True)
        )
        left = (old > 0) | (new > 0)
        counts: Counter[Reason] = Counter()
        tests: dict[Reason, NDArray[np.bool_]] = {
            "only_before": self._only_before,
            "only_after": self._only_after,
            "changed": ~self._is_paired(way),
            "parse_error": (old == UNREADABLE) | (new == UNREADABLE),
            "not_judged": (old == 0) | (new == 0),
        }
        for reason, holds in tests.items():
            counts[reason] = int((left & holds).sum())
            left &= ~holds
        return {reason: counts[reason] for reason in REASONS}

    def _is_paired(self, way: Way) -> NDArray[np.bool_]:
        """Which samples are the same sample, as this way shows them."""
        return self._same_text & self._same_image if way.condition == SHOWS_IMAGE else self._same_text

    def _is_same(self, before: Sequence[str | None], after: Sequence[str | None]) -> NDArray[np.bool_]:
        return np.array(
            [
                was >= 0 and now >= 0 and before[was] == after[now]
                for was, now in zip(*self._orders, strict=True)
            ],
            dtype=bool,
        )


def _order(side: Side, places: Sequence[Place]) -> NDArray[np.int64]:
    """Where in the side each sample is, −1 for nowhere."""
    own = {place: number for number, place in enumerate(side.places)}
    return np.array([own.get(place, -1) for place in places], dtype=np.int64)


def _arrange(values: NDArray[Any], order: NDArray[np.int64], missing: float) -> NDArray[Any]:
    """The side's values in the common order."""
    if not len(values):
        return np.full(len(order), missing, dtype=values.dtype)
    return np.where(order >= 0, values[order], np.asarray(missing, dtype=values.dtype))
