"""Comparisons of two runs: whether one is still referenced, and its rows for SQL."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator
from typing import Any

from storage.errors import StoreError
from storage.records.manifest import Manifest
from storage.store import Store

log = logging.getLogger("cmrm.storage")

# The stage that compares two runs. Its key content names the runs' reports; no run's record names it.
COMPARE = "compare"


def compared_reports(manifest: Manifest) -> tuple[str, ...]:
    """The keys of the compared reports, the earlier run's first; () for any other manifest."""
    return tuple(map(str, manifest.content.get("reports") or ())) if manifest.stage == COMPARE else ()


def is_used(manifest: Manifest, used: Collection[str]) -> bool:
    """Whether runs that used these keys refer to a manifest, or to both reports of a comparison."""
    reports = compared_reports(manifest)
    return manifest.key in used or (bool(reports) and all(key in used for key in reports))


def comparison_rows(store: Store, manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Read a comparison as a row; an unreadable one is skipped and logged."""
    for path in manifest.paths("comparisons"):
        try:
            text = store.read(path).decode()
            found = json.loads(text)
            before, after = compared_reports(manifest)
            yield {
                "key": manifest.key,
                "created_at": manifest.created_at,
                "before": before,
                "after": after,
                "regressed": found["regressed"],
                "verdict": found["verdict"],
                "record": text,
            }
        except (StoreError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is left out of the comparisons: %s", path, error)
