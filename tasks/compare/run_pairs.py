"""Pair two runs' verdicts by sample, and count by reason those that cannot be paired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from storage.records.hashing import digest
from storage.records.manifest import Manifest
from storage.shards.rows import iterate_all
from storage.store import Store
from tasks.report.outcomes import JUDGED, Arm, Column, Outcomes, SampleInfo, Values

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
    "category",
    "text_digest",
    "image_digest",
    "media",
)
# State of a judge's verdict on an answer; 0 is no answer, or not applicable.
READ, UNREADABLE = 1, 2
# The only condition that shows a sample's own image.
SHOWS_IMAGE = "image"

Place = tuple[str, str]
Flags = NDArray[np.int8]


@dataclass(kw_only=True)
class Side:
    """One run's verdicts: their outcomes, the state of each judge's verdict on each sample, and the samples.

    `texts` and `images` are digests per sample: of what decides the verdict, and of the image's bytes. Memory is one
    byte per sample, arm and judge besides that of `Outcomes`. Not frozen, since verdicts are added shard by shard.
    """

    outcomes: Outcomes
    texts: Sequence[str]
    images: Sequence[str | None]
    read: dict[tuple[Arm, str], Flags] = field(default_factory=dict)

    @property
    def places(self) -> list[Place]:
        """Data set and id of each sample."""
        return [(one.dataset, one.sample_id) for one in self.outcomes.samples]

    def judges(self) -> list[str]:
        """The judges, in order of their first verdict."""
        return list(dict.fromkeys(judge for _, judge in self.read))

    def add(self, verdicts: Iterable[Mapping[str, Any]]) -> None:
        """Count rows of `judgements`, and record the state of each verdict."""
        self.outcomes.add(self._note(verdicts))

    def _note(self, verdicts: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        places = {place: number for number, place in enumerate(self.places)}
        for row in verdicts:
            key = Arm(*(row[name] for name in Arm._fields)), row["judge"]
            if key not in self.read:
                self.read[key] = np.zeros(len(places), dtype=np.int8)
            if row["verdict"] != "not_applicable":
                state = UNREADABLE if row["verdict"] == "parse_error" else READ
                self.read[key][places[row["dataset"], row["sample_id"]]] = state
            yield row


def make_side(samples: Iterable[Mapping[str, Any]]) -> Side:
    """Make a side from rows of `samples`, without verdicts yet."""
    infos, texts, images = [], [], []
    for row in samples:
        split_by = row["split_by"] or row["question"]
        own = {name: row[name] for name in ("dataset", "sample_id", "harmful", "category")}
        infos.append(SampleInfo(split_by=split_by, **own))
        text = row["text_digest"] or digest({"question": row["question"], "caption": row["caption"]})
        texts.append(digest([text, row["harmful"], row["reference"]]))
        media = row.get("media")
        shown = [[one["kind"], one["digest"], one["frames"]] for one in media or ()]
        images.append(digest(shown) if media else row["image_digest"])
    return Side(outcomes=Outcomes(samples=infos), texts=texts, images=images)


def read_side(
    store: Store, *, ingested: Sequence[Manifest], judged: Sequence[Manifest], labels: Mapping[str, str]
) -> Side:
    """Read one run's samples and verdicts; `labels` maps its models to common names, others are left out."""
    side = make_side(iterate_all(store, ingested, "samples", SAMPLE))
    side.add(
        {**row, "model": labels[row["model"]]}
        for row in iterate_all(store, judged, "judgements", JUDGED)
        if row["model"] in labels
    )
    return side


class RunPairs:
    """Two sides with aligned samples: those of the earlier run, then those that only the later one has."""

    def __init__(self, before: Side, after: Side) -> None:
        self.before, self.after = before, after
        self.places = list(dict.fromkeys([*before.places, *after.places]))
        self._orders = [_order(side, self.places) for side in (before, after)]
        old, new = self._orders
        self._only_before, self._only_after = new < 0, old < 0
        self.common = ~(self._only_before | self._only_after)
        self._same_text = self._is_same(before.texts, after.texts)
        self._same_image = self._is_same(before.images, after.images)

    def arms(self) -> dict[Arm, None]:
        """The arms that both runs have, in the later run's order."""
        return {arm: None for arm in self.after.outcomes.arms if arm in self.before.outcomes.arms}

    def samples(self) -> list[SampleInfo]:
        """The aligned samples: as the later run has them, or the earlier one where it alone has them."""
        old, new = self._orders
        before, after = self.before.outcomes.samples, self.after.outcomes.samples
        return [after[now] if now >= 0 else before[was] for was, now in zip(old, new, strict=True)]

    def judges(self) -> list[str]:
        """The judges that both runs have."""
        return [judge for judge in self.after.judges() if judge in self.before.judges()]

    def columns(self) -> list[Column]:
        """The columns that either run has, by a judge that both have."""
        found = dict.fromkeys([*self.before.outcomes.columns(), *self.after.outcomes.columns()])
        return [column for column in found if column.judge in self.judges()]

    def get(self, arm: Arm, column: Column) -> tuple[Values, Values]:
        """One value per sample before and after, both NaN where they cannot be paired."""
        old, new = (
            _arrange(side.outcomes.get(arm, column), order, np.nan)
            for side, order in zip((self.before, self.after), self._orders, strict=True)
        )
        apart = ~self._is_paired(arm) | np.isnan(old) | np.isnan(new)
        old[apart] = new[apart] = np.nan
        return old, new

    def count_unpaired(self, arm: Arm, judge: str) -> dict[str, int]:
        """Count the answers judged in either run that have no counterpart, by the first reason that applies."""
        nothing = np.zeros(0, dtype=np.int8)
        old, new = (
            _arrange(side.read.get((arm, judge), nothing), order, 0)
            for side, order in zip((self.before, self.after), self._orders, strict=True)
        )
        left = (old > 0) | (new > 0)
        counts: Counter[Reason] = Counter()
        tests: dict[Reason, NDArray[np.bool_]] = {
            "only_before": self._only_before,
            "only_after": self._only_after,
            "changed": ~self._is_paired(arm),
            "parse_error": (old == UNREADABLE) | (new == UNREADABLE),
            "not_judged": (old == 0) | (new == 0),
        }
        for reason, holds in tests.items():
            counts[reason] = int((left & holds).sum())
            left &= ~holds
        return {reason: counts[reason] for reason in REASONS}

    def _is_paired(self, arm: Arm) -> NDArray[np.bool_]:
        """Which samples are equal in both runs, as this arm shows them."""
        return self._same_text & self._same_image if arm.condition == SHOWS_IMAGE else self._same_text

    def _is_same(self, before: Sequence[str | None], after: Sequence[str | None]) -> NDArray[np.bool_]:
        return np.array(
            [
                was >= 0 and now >= 0 and before[was] == after[now]
                for was, now in zip(*self._orders, strict=True)
            ],
            dtype=bool,
        )


def _order(side: Side, places: Sequence[Place]) -> NDArray[np.int64]:
    """Index of each sample in the side, −1 if missing."""
    own = {place: number for number, place in enumerate(side.places)}
    return np.array([own.get(place, -1) for place in places], dtype=np.int64)


def _arrange(values: NDArray[Any], order: NDArray[np.int64], missing: float) -> NDArray[Any]:
    """Reorder the side's values into the common order."""
    if not len(values):
        return np.full(len(order), missing, dtype=values.dtype)
    return np.where(order >= 0, values[order], np.asarray(missing, dtype=values.dtype))
