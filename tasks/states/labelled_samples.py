"""Samples with their labels and texts, and their states at one block under some conditions, in one order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cmrm.datasets.splits import SplitRow, digest_text
from storage.records.hashing import digest
from storage.shards.hidden_states import read_block
from storage.store import Store
from tasks.shards.samples import Shard
from tasks.states.shift import find_states


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """Whether a sample is harmful, and digests of its texts: the one that decides its split, and its question.

    The two differ where a data set groups its rows, by image for example. Texts that differ in case and spacing alone
    have one digest.
    """

    harmful: bool
    texts: tuple[bytes, bytes]


@dataclass(frozen=True, kw_only=True)
class ShardStates:
    """A shard's files of states by condition, and its samples' labels."""

    dataset: str
    paths: Mapping[str, tuple[Path, ...]]
    labels: Mapping[str, Label]

    @classmethod
    def of(cls, store: Store, shard: Shard, keys: Mapping[str, str]) -> ShardStates:
        """Find the files of the states with these keys."""
        return cls(
            dataset=shard.dataset,
            paths={name: find_states(store, key) for name, key in keys.items()},
            labels=_read_labels(store, shard),
        )


@dataclass(frozen=True, kw_only=True)
class Side:
    """The samples [n] of some shards, and by condition rows [m] and states [m, d] at one block."""

    split: str
    samples: Sequence[tuple[str, str]]
    labels: Sequence[Label]
    states: Mapping[str, tuple[np.ndarray, np.ndarray]]

    @cached_property
    def harmful(self) -> np.ndarray:
        """Which samples are harmful, bool [n]."""
        return np.array([label.harmful for label in self.labels], dtype=bool)

    def list_labels(self, condition: str) -> list[Label]:
        """List the labels of the samples with states under a condition, [m]."""
        return [self.labels[row] for row in self.states[condition][0]]


def digest_splits(store: Store, shard: Shard) -> str:
    """The digest of what decides the use of a shard's samples: their labels, and the texts that group them."""
    return digest(
        {
            name: [label.harmful, *(text.hex() for text in label.texts)]
            for name, label in _read_labels(store, shard).items()
        }
    )


def _read_labels(store: Store, shard: Shard) -> dict[str, Label]:
    samples = (stored.sample for stored in shard.read_all(store))
    return {
        one.id: Label(
            harmful=one.harmful,
            texts=(digest_text(SplitRow.of(one).text, seed=0), digest_text(one.question, seed=0)),
        )
        for one in samples
    }


def gather_states(split: str, shards: Sequence[ShardStates], block: int) -> Side:
    """Gather the states of all shards at one block.

    Samples are sorted by data set and id, so that resamples and folds do not depend on the size of a shard.
    """
    read = [
        (shard, {name: read_block(paths, block) for name, paths in shard.paths.items()}) for shard in shards
    ]
    labels = {
        (shard.dataset, sample): shard.labels[sample]
        for shard, states in read
        for one in states.values()
        for sample in one.sample_ids
    }
    samples = sorted(labels)
    places = {sample: place for place, sample in enumerate(samples)}
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for shard, states in read:
        for name, one in states.items():
            if one.sample_ids:
                rows = np.array([places[shard.dataset, sample] for sample in one.sample_ids])
                found.setdefault(name, []).append((rows, one.vectors[:, 0]))
    return Side(
        split=split,
        samples=samples,
        labels=[labels[sample] for sample in samples],
        states={name: _join(some) for name, some in found.items()},
    )


def _join(found: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    rows, states = (np.concatenate(some) for some in zip(*found, strict=True))
    order = np.argsort(rows)
    return rows[order], states[order]


def group_by_text(labels: Sequence[Label]) -> list[str]:
    """Name each sample's group: samples are in one if they share a text, or if others link them by theirs."""
    parents: dict[bytes, bytes] = {}

    def find(text: bytes) -> bytes:
        while (parent := parents.setdefault(text, text)) != text:
            parents[text] = text = parents[parent]
        return text

    for label in labels:
        first, second = label.texts
        parents[find(second)] = find(first)
    return [find(label.texts[0]).hex() for label in labels]
