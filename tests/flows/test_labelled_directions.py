"""Runs with defences of other kinds: their labelled direction, its key, and mistakes that a run finds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmrm.errors import UserError
from cmrm.steering.direction import LabelledDirection, load_direction
from storage.sql.database import connect
from tests.flows.shared_runs import run_plainly

FEW: dict[str, Any] = {"conditions": ["image"], "target_states": [], "judges": ["refusal"], "shard_size": 64}
PROJECT = {"name": "project", "kind": "project", "blocks": [1, 2]}


def list_keys(store: Path, stage: str) -> set[str]:
    return {path.stem for path in (store / "manifests" / stage).glob("*.json")}


def find_directions(store: Path) -> dict[str, LabelledDirection]:
    """Every labelled direction of a store, by its key."""
    return {
        path.name.split(".")[0]: load_direction(path) for path in (store / "directions").glob("*.safetensors")
    }


def test_the_direction_is_the_difference_of_the_labelled_states_and_follows_the_labels(
    llava_folder: Path, tmp_path: Path, write_spec: Callable[..., Path]
) -> None:
    one_set = {"own": {"format": "jsonl", "path": "own.jsonl", "images": "images"}}
    spec = write_spec(
        tmp_path / "data",
        llava_folder,
        **FEW,
        datasets=one_set,
        anchors={"from": {"own": 0.6}, "seed": 1},
        interventions=[PROJECT],
    )
    data = spec.parent / "own.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    store = tmp_path / "store"

    def run_with_labels(labels: list[bool]) -> None:
        labelled = [{**row, "harmful": label} for row, label in zip(rows, labels, strict=True)]
        data.write_text("".join(json.dumps(row) + "\n" for row in labelled))
        run_plainly(spec, store)

    labels = [number % 2 == 0 for number in range(len(rows))]
    run_with_labels(labels)
    ((first, found),) = find_directions(store).items()
    with connect(store, run="latest") as sql:
        states = sql.sql(
            "SELECT block, harmful, vector FROM hidden_states JOIN samples USING (dataset, sample_id) "
            "WHERE condition = 'query' AND split = 'anchor'"
        ).fetchall()
        anchors = {
            int(name)
            for (name,) in sql.sql("SELECT sample_id FROM samples WHERE split = 'anchor'").fetchall()
        }
    assert len(states) == len(anchors) * len(found.blocks)
    for number, block in enumerate(found.blocks):
        bad, good = (
            np.mean([vector for at, harmful, vector in states if at == block and harmful == label], axis=0)
            for label in (True, False)
        )
        np.testing.assert_allclose(found.difference[number], bad - good, atol=1e-3, rtol=1e-3)

    # The label of a target is nothing to it; that of an anchor is.
    target = next(number for number in range(len(rows)) if number not in anchors)
    run_with_labels([label != (number == target) for number, label in enumerate(labels)])
    assert all(np.allclose(one.difference, found.difference) for one in find_directions(store).values())
    run_with_labels([label != (number == min(anchors)) for number, label in enumerate(labels)])
    changed = [
        one
        for key, one in find_directions(store).items()
        if not np.allclose(one.difference, found.difference)
    ]
    assert len(changed) == 1
    assert first in list_keys(store, "direction")


def test_anchors_of_one_label_are_an_error_in_one_line_before_anything_is_answered(
    llava_folder: Path, tmp_path: Path, write_spec: Callable[..., Path]
) -> None:
    spec = write_spec(
        tmp_path / "data", llava_folder, **FEW, anchors={"from": {"own": 0.4}}, interventions=[PROJECT]
    )
    with pytest.raises(
        UserError, match=r"^anchors\.from: no harmful anchor has .*; name a data set of each label\.$"
    ):
        run_plainly(spec, tmp_path / "store")
    assert not list_keys(tmp_path / "store", "generate")


@pytest.mark.parametrize(
    "far",
    [
        {"kind": "project", "blocks": [1, 9]},
        {"kind": "direction", "blocks": [9]},
        {"kind": "random", "blocks": [9]},
        {"kind": "cmrm", "blocks": [9]},
    ],
    ids=lambda far: far["kind"],
)
def test_a_block_that_the_model_lacks_is_an_error_in_one_line_before_anything_is_answered(
    llava_folder: Path, tmp_path: Path, write_spec: Callable[..., Path], far: dict[str, Any]
) -> None:
    more = {**FEW, "conditions": ["query", "image"]}
    ask = {"name": "ask", "kind": "prompt", "preset": "safety-prompt"}
    stack = {"name": "both", "kind": "stack", "of": ["far", "ask"]}
    spec = write_spec(
        tmp_path / "data", llava_folder, **more, interventions=[{"name": "far", **far}, ask, stack]
    )
    line = r"^interventions\.blocks: no block 9 in this model; it has blocks 0 to 3; correct 'far'\.$"
    with pytest.raises(UserError, match=line):
        run_plainly(spec, tmp_path / "store")
    assert not list_keys(tmp_path / "store", "generate")
    assert not list((tmp_path / "store").glob("parts/generate/*/*.parquet"))
