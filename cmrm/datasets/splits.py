"""Split samples into anchors, which measure Δ and are never judged, and targets: stratified, grouped, by hash."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from heapq import nsmallest

from cmrm.errors import UserError
from cmrm.prompts.sample import Sample

# Texts with equal digests of this length count as equal.
DIGEST_BYTES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitRow:
    """What decides a sample's side of the split: its text, and its stratum (data set, category)."""

    dataset: str
    category: str | None
    text: str

    @classmethod
    def of(cls, sample: Sample) -> SplitRow:
        """Make the row of a sample; the text is its group if it has one, else its question."""
        return cls(dataset=sample.dataset, category=sample.category, text=sample.group or sample.question)


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The result of a split: digests of the anchors' texts; all other texts are targets."""

    anchors: frozenset[bytes]
    seed: int

    def is_anchor(self, text: str) -> bool:
        """Whether a text, ignoring case and spacing, is an anchor."""
        return digest_text(text, seed=self.seed) in self.anchors

    def is_anchor_sample(self, sample: Sample) -> bool:
        """Whether a sample is an anchor, by its group or its question."""
        return self.is_anchor(SplitRow.of(sample).text)


def choose_anchors(rows: Iterable[SplitRow], *, fractions: Mapping[str, float], seed: int) -> Sides:
    """Choose anchors over all data sets of a run at once, stratified by data set and category.

    Texts equal but for case and spacing are one text, wherever they occur; it counts in the first of its data sets
    in the order of `fractions` (there, in its first category by name), and its side holds in all of them. Of a
    stratum's n texts the k = ⌊fraction · n + u⌋ with the smallest hashes are anchors, where u is drawn from [0, 1) by
    stratum: k is within one of fraction · n and unbiased for any n. The order of rows has no effect. A new text moves
    at most one other text, in its own stratum. A data set not in `fractions` gives no anchors. Takes some 100 bytes of
    memory per text. Raises `UserError` for a fraction outside [0, 1].
    """
    for dataset, fraction in fractions.items():
        if not 0.0 <= fraction <= 1.0:
            raise UserError(
                f"the fraction of anchors of {dataset!r} is {fraction}; give a number from 0 to 1."
            )
    names = list(fractions)
    ranks = {dataset: rank for rank, dataset in enumerate(names)}
    # Strata are shared tuples: there are few of them, and many texts.
    known: dict[tuple[int, str], tuple[int, str]] = {}
    strata: dict[bytes, tuple[int, str]] = {}
    for row in rows:
        if row.dataset not in ranks:
            continue
        stratum = (ranks[row.dataset], row.category or "")
        stratum = known.setdefault(stratum, stratum)
        digest = digest_text(row.text, seed=seed)
        strata[digest] = min(strata.get(digest, stratum), stratum)
    members: dict[tuple[int, str], list[bytes]] = {}
    for digest, stratum in strata.items():
        members.setdefault(stratum, []).append(digest)
    anchors: set[bytes] = set()
    for (rank, category), digests in members.items():
        dataset = names[rank]
        # Exact arithmetic: in floats, a fraction near 1 could take one text too many.
        share = Fraction(fractions[dataset]) * len(digests) + _draw_for(seed, dataset, category)
        anchors.update(nsmallest(math.floor(share), digests))
    return Sides(anchors=frozenset(anchors), seed=seed)


def split(samples: Iterable[Sample], *, fraction: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Split samples into (anchors, targets), each in the order given, the same fraction of each of their data sets.

    `choose_anchors` says how. Raises `UserError` for a fraction outside [0, 1].

    >>> import cmrm
    >>> questions = [f"what is wug {number}?" for number in range(10)]
    >>> samples = [cmrm.Sample(id=one, dataset="mine", question=one, harmful=False) for one in questions]
    >>> anchors, targets = cmrm.split(samples, fraction=0.2, seed=42)
    >>> len(anchors), len(targets)
    (2, 8)
    """
    listed = list(samples)
    if others := [one for one in listed if not isinstance(one, Sample)]:
        raise UserError(
            f"split: {len(others)} of the {len(listed)} rows are no samples but {type(others[0]).__name__}; keep the "
            "samples alone: [row for row in rows if isinstance(row, cmrm.Sample)]."
        )
    fractions = dict.fromkeys(sorted({sample.dataset for sample in listed}) or ["none"], fraction)
    sides = choose_anchors(map(SplitRow.of, listed), fractions=fractions, seed=seed)
    anchors: list[Sample] = []
    targets: list[Sample] = []
    for sample in listed:
        (anchors if sides.is_anchor_sample(sample) else targets).append(sample)
    return anchors, targets


def draw(text: str, *, seed: int) -> float:
    """Map a text to a pseudorandom number, uniform on [0, 1), ignoring case and spacing."""
    # A float holds 53 bits exactly, so 1.0 is never drawn.
    return (int.from_bytes(digest_text(text, seed=seed)[:8]) >> 11) / 2**53


def digest_text(text: str, *, seed: int) -> bytes:
    """Hash a text with the seed, ignoring case and spacing: 16 bytes."""
    folded = " ".join(text.casefold().split())
    return hashlib.sha256(f"{seed}\n{folded}".encode()).digest()[:DIGEST_BYTES]


def _draw_for(seed: int, dataset: str, category: str) -> Fraction:
    """Map a stratum to a pseudorandom number in [0, 1)."""
    digest = hashlib.sha256(json.dumps([seed, dataset, category]).encode()).digest()
    return Fraction(int.from_bytes(digest[:8]), 2**64)
