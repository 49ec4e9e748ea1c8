"""Why rows are in quarantine: the most frequent reason, for messages that would otherwise send people to look."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from storage.manifest import Manifest
from storage.parquet import read_parquet
from storage.store import Store

# What tells two rows with one fault apart: the names and numbers in its reason.
NAMES = re.compile(r"'[^']*'|\"[^\"]*\"|\d+")
MOST_CHARACTERS = 300


def read_quarantine(store: Store, manifests: Iterable[Manifest]) -> Iterator[dict[str, Any]]:
    """Read the rows of these manifests' quarantine."""
    for manifest in manifests:
        for path in manifest.paths("quarantine"):
            yield from read_parquet(store.local_path(path)).to_pylist()


def explain_quarantine(store: Store, manifests: Sequence[Manifest]) -> str:
    """Say the most frequent reason of these manifests' quarantine with its count, or '' where nothing is there.

    Reasons that differ in a name or a number are one; the first of them is quoted.
    """
    reasons = [str(row["reason"]) for row in read_quarantine(store, manifests)]
    if not reasons:
        return ""
    kinds = Counter(NAMES.sub("…", reason) for reason in reasons)
    kind, count = kinds.most_common(1)[0]
    example = next(reason for reason in reasons if NAMES.sub("…", reason) == kind)
    others = {1: "", 2: ", and 1 other reason"}.get(len(kinds), f", and {len(kinds) - 1} other reasons")
    return f"{count} of {len(reasons)} rows: {example[:MOST_CHARACTERS]}{others}"
