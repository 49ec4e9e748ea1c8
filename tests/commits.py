"""How many jobs a run really did."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from storage.records.manifest import Manifest
from storage.store import Store


def count_commits(patch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the jobs of each stage that are committed from now on."""
    counted: Counter[str] = Counter()
    commit = Store.commit

    def count(self: Store, stage: str, *arguments: Any, **more: Any) -> Manifest:
        counted[stage] += 1
        return commit(self, stage, *arguments, **more)

    patch.setattr(Store, "commit", count)
    return counted
