"""The captions that a run generated, counted by model, data set and what was asked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

from storage.records.manifest import Manifest
from storage.shards.rows import read_rows
from storage.store import Store
from tasks.core.quarantine import read_quarantine

COUNTED = ("dataset", "tokens", "finish_reason")


@dataclass(frozen=True, kw_only=True)
class CaptionSummary:
    """Captions of a data set's images by one model, asked one way.

    `cut` of the `captions` ended at the most tokens, whose mean is `tokens`, None without any; `quarantined` images
    got none.
    """

    model: str
    dataset: str
    style: str
    prompt: str
    captions: int
    cut: int
    quarantined: int
    tokens: float | None


class _Asked(NamedTuple):
    """Who was asked for captions, of which data set, and how."""

    model: str
    dataset: str
    style: str
    prompt: str


@dataclass(frozen=True, kw_only=True)
class _Count:
    tokens: list[int] = field(default_factory=list)
    cut: list[bool] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)


def summarize_captions(store: Store, manifests: Sequence[Manifest]) -> list[CaptionSummary]:
    """Summarize the captions of these jobs, in their order."""
    counts: defaultdict[_Asked, _Count] = defaultdict(_Count)
    for manifest in manifests:
        for row in read_rows(store, manifest, "captions", COUNTED).to_pylist():
            count = counts[_name(manifest, row)]
            count.tokens.append(row["tokens"])
            count.cut.append(row["finish_reason"] == "length")
        for row in read_quarantine(store, [manifest]):
            counts[_name(manifest, row)].quarantined.append(row["sample_id"])
    return [
        CaptionSummary(
            **asked._asdict(),
            captions=len(count.tokens),
            cut=sum(count.cut),
            quarantined=len(count.quarantined),
            tokens=fmean(count.tokens) if count.tokens else None,
        )
        for asked, count in counts.items()
    ]


def _name(manifest: Manifest, row: dict[str, Any]) -> _Asked:
    content = manifest.content
    return _Asked(content["name"], row["dataset"], content["style"], content["prompt"])
