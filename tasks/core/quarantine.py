"""Read quarantined rows, and name their most frequent reason in messages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from storage.records.manifest import Manifest
from storage.store import Store
from storage.tables.parquet import read_parquet

# Rows with the same fault differ in the names and numbers of its reason.
NAMES = re.compile(r"'[^']*'|\"[^\"]*\"|\d+")
MOST_CHARACTERS = 300


def read_quarantine(store: Store, manifests: Iterable[Manifest]) -> Iterator[dict[str, Any]]:
    """Read the quarantined rows of these manifests."""
    for manifest in manifests:
        for path in manifest.paths("quarantine"):
            yield from read_parquet(store.local_path(path)).to_pylist()


def explain_quarantine(store: Store, manifests: Sequence[Manifest]) -> str:
    """Describe the most frequent quarantine reason of these manifests with its count; '' if no row is quarantined.

    Reasons that differ only in names or numbers count as one; the first of them is quoted.
    """
    reasons = [str(row["reason"]) for row in read_quarantine(store, manifests)]
    if not reasons:
        return ""
    kinds = Counter(NAMES.sub("…", reason) for reason in reasons)
    kind, count = kinds.most_common(1)[0]
    example = next(reason for reason in reasons if NAMES.sub("…", reason) == kind)
    others = {1: "", 2: ", and 1 other reason"}.get(len(kinds), f", and {len(kinds) - 1} other reasons")
    return f"{count} of {len(reasons)} rows: {example[:MOST_CHARACTERS]}{others}"
