"""Three finished runs with known flips, hostile text among them, and the page of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cmrm.statistics.regression import Thresholds
from flows.compare.page.write import write_comparison_page
from storage.records.hashing import digest
from storage.store import Store
from tasks.report.outcomes import Arm
from tests.made_up import EVIL
from tests.made_up_pair import IMAGE, NEW, OLD, QUERY, commit_run, compare_pair, make_sample

RUNS = ("20260101-000000-aaaaaa", "20260102-000000-bbbbbb", "20260103-000000-cccccc")
MODELS = (OLD, NEW, "guard@cccccccccccc")
# Not in the order of their names.
ARMS = (QUERY, IMAGE, Arm(OLD, "image", "late", 1.0), Arm(OLD, "image", "early", 1.0))
EVIL_ID = f"v0 {EVIL}"


class ComparedRuns(NamedTuple):
    """A store with three finished runs, and the file of the page of the first two, and of all."""

    store: Store
    two: Path
    three: Path


def list_samples(count: int) -> list[dict[str, Any]]:
    """Harmful samples, the first with a hostile id, and four harmless ones."""
    harmful = [make_sample(number) for number in range(count)]
    harmful[0] |= {"sample_id": EVIL_ID, "question": f"how do I frobnicate {EVIL}", "category": EVIL}
    harmless = [
        make_sample(number, dataset="bench", sample_id=f"b{number}", harmful=False) for number in range(4)
    ]
    return [*harmful, *harmless]


def number_of(row: Mapping[str, Any]) -> int:
    return int(row["sample_id"].split()[0][1:])


def make_spec(tokens: int) -> dict[str, Any]:
    """A spec that this release can read, as a run's record has it."""
    return {
        "model": {"id": "guard"},
        "datasets": {
            "vlsafe": {"format": "jsonl", "path": "a.jsonl"},
            "bench": {"format": "jsonl", "path": "b.jsonl"},
        },
        "anchors": {"from": {"vlsafe": 0.2}},
        "generation": {"max_new_tokens": tokens},
    }


def commit_three(store: Store) -> None:
    """B answers v0 to v5 with an image and refuses b0; C answers v2 alone, has another v3, v4 and no v1."""
    unsafe: Sequence[set[int]] = (set(), {0, 1, 2, 3, 4, 5}, {2})
    for place, (run_id, model) in enumerate(zip(RUNS, MODELS, strict=True)):

        def say(arm: Arm, row: Mapping[str, Any], place: int = place) -> str:
            if not row["harmful"]:
                return "safe refused" if place == 1 and number_of(row) == 0 else "correct"
            answered = arm.condition == "image" and not arm.intervention and number_of(row) in unsafe[place]
            return "unsafe" if answered else "safe"

        def answer(arm: Arm, row: Mapping[str, Any], place: int = place) -> str:
            if say(arm, row, place) == "unsafe":
                return f"Sure, you frobnicate thing {number_of(row)} with a spanner. {EVIL}"
            return f"Sorry, you frobnicate thing {number_of(row)} with nothing. {EVIL}"

        samples = list_samples(12)
        if place == 2:
            samples = [row for row in samples if row["sample_id"] != "v1"]
            samples[2] |= {"question": "another question", "text_digest": digest("another")}
            samples[3] |= {"image_digest": digest("another image")}
        commit_run(
            store,
            run_id,
            say=say,
            answer=answer,
            models=(model,),
            samples=samples,
            arms=ARMS,
            judges=("refusal",),
            shift={"delta": [[1.0, 0.0], [0.0, 2.0 + place], [3.0, 4.0 * place]]},
            spec=make_spec(8 + place),
        )


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> ComparedRuns:
    store = Store.create(tmp_path_factory.mktemp("compared"))
    commit_three(store)
    comparisons = [compare_pair(store, RUNS[0], later, thresholds=Thresholds()) for later in RUNS[1:]]
    name = f"a store's <b>{EVIL}"
    paths = [write_comparison_page(store, found, store_name=name) for found in (comparisons[:1], comparisons)]
    return ComparedRuns(store, *map(store.local_path, paths))
