"""Runs with directions: numbers against numpy and scikit-learn on the stored states, keys, reuse, report, mistakes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from cmrm.errors import UserError
from flows.plan.plan import make_plan
from flows.report.writers.terminal_directions import render_directions
from flows.run import Result
from flows.spec.spec import check_spec, read_spec
from storage.records.layout import report_folder
from storage.sql.database import connect
from storage.store import Store
from tasks.report import figure
from tests.conformance.builders import BUILDERS
from tests.flows.shared_runs import run_plainly

FEW: dict[str, Any] = {
    "anchors": {"from": {"vlsafe": 0.5, "own": 0.6}, "seed": 1},
    "conditions": ["query", "image"],
    "target_states": ["query", "image"],
    "steered_states": ["CMRM"],
    "judges": ["refusal"],
    "interventions": [{"name": "CMRM", "alpha": 0.5, "blocks": [1, 2]}],
    "shard_size": 64,
}
ASKED = {"directions": ["query", "image", "noise"]}


class Runs(NamedTuple):
    """A store after a run without directions and one with them, the keys after the first, and the second's result."""

    store: Path
    spec: Path
    before: dict[str, set[str]]
    result: Result


def list_keys(store: Path) -> dict[str, set[str]]:
    return {
        folder.name: {path.stem for path in folder.glob("*.json")}
        for folder in (store / "manifests").iterdir()
    }


@pytest.fixture(scope="module")
def runs(
    llava_folder: Path, tmp_path_factory: pytest.TempPathFactory, write_spec: Callable[..., Path]
) -> Runs:
    folder = tmp_path_factory.mktemp("directions")
    store = folder / "store"
    run_plainly(write_spec(folder / "data", llava_folder, **FEW), store)
    before = list_keys(store)
    spec = write_spec(folder / "data", llava_folder, **FEW, **ASKED)
    return Runs(store, spec, before, run_plainly(spec, store, save=figure._save))


class States(NamedTuple):
    """States of one split in one arm at one block, with their labels."""

    samples: list[tuple[str, str]]
    harmful: np.ndarray
    vectors: np.ndarray


def read_states(sql: Any, split: str, condition: str, intervention: str = "", block: int = 3) -> States:
    rows = sql.execute(
        "SELECT dataset, sample_id, harmful, vector FROM hidden_states JOIN samples USING (dataset, sample_id) WHERE "
        "split = ? AND condition = ? AND intervention = ? AND block = ? ORDER BY dataset, sample_id",
        [split, condition, intervention, block],
    ).fetchall()
    samples, harmful = [row[:2] for row in rows], np.array([row[2] for row in rows])
    return States(samples, harmful, np.array([row[3] for row in rows], dtype=np.float64))


def subtract_means(states: States) -> np.ndarray:
    return states.vectors[states.harmful].mean(axis=0) - states.vectors[~states.harmful].mean(axis=0)


def find_cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


@pytest.mark.parametrize(
    "arm", [("query", ""), ("image", ""), ("image", "CMRM")], ids=["text", "image", "steered"]
)
def test_directions_and_probes_are_those_of_numpy_and_scikit_learn(runs: Runs, arm: tuple[str, str]) -> None:
    condition, intervention = arm
    with connect(runs.store, run="latest") as sql:
        (row,) = (
            sql.sql(
                "SELECT * FROM directions WHERE condition = ? AND intervention = ? AND split = 'target' AND block = 3",
                params=[condition, intervention],
            )
            .to_arrow_table()
            .to_pylist()
        )
        targets = read_states(sql, "target", condition, intervention)
        anchors, text = (read_states(sql, "anchor", name) for name in (condition, "query"))
        found = sql.execute(
            "SELECT dataset, sample_id, distance, along FROM projections JOIN samples USING (dataset, sample_id) "
            "WHERE condition = ? AND intervention = ? AND block = 3 AND split = 'target'",
            [condition, intervention],
        ).fetchall()
    projections = {row[:2]: row[2:] for row in found}
    assert not set(targets.samples) & set(anchors.samples)
    direction, text_direction = subtract_means(targets), subtract_means(text)
    assert (row["harmful"], row["harmless"]) == (targets.harmful.sum(), (~targets.harmful).sum())
    assert row["norm"] == pytest.approx(np.linalg.norm(direction))
    assert row["norm_low"] <= row["norm"] <= row["norm_high"]
    assert row["state"] == pytest.approx(np.linalg.norm(targets.vectors, axis=1).mean())
    assert row["text_cosine"] == pytest.approx(find_cosine(direction, text_direction))
    # Trained on the anchors' plain states alone, whatever the arm.
    scaler = StandardScaler().fit(anchors.vectors)
    probe = LogisticRegression(max_iter=10_000).fit(scaler.transform(anchors.vectors), anchors.harmful)
    scores = probe.decision_function(scaler.transform(targets.vectors))
    assert row["auroc"] == pytest.approx(roc_auc_score(targets.harmful, scores))
    assert row["auroc_low"] <= row["auroc"] <= row["auroc_high"]
    assert (row["tested"], row["trained"], row["missing"]) == ("held out", len(anchors.samples), None)
    # 0 and 1 along the text direction are the means of the anchors as text.
    harmless = text.vectors[~text.harmful].mean(axis=0)
    distances = (targets.vectors - harmless) @ text_direction / np.linalg.norm(text_direction)
    along = distances / np.linalg.norm(text_direction)
    np.testing.assert_allclose([projections[one][0] for one in targets.samples], distances, atol=1e-6)
    np.testing.assert_allclose([projections[one][1] for one in targets.samples], along, atol=1e-6)
    assert row["harmful_along"] == pytest.approx(along[targets.harmful].mean())
    assert row["harmless_along"] == pytest.approx(along[~targets.harmful].mean())


def test_without_states_of_targets_probes_are_tested_in_folds_of_anchors(runs: Runs) -> None:
    with connect(runs.store, run="latest") as sql:
        found = sql.sql(
            "SELECT condition, count(*), count(auroc), any_value(tested), any_value(missing) FROM directions "
            "WHERE split = 'anchor' GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        counts = dict(
            sql.sql("SELECT harmful, count(*) FROM samples WHERE split = 'anchor' GROUP BY ALL").fetchall()
        )
    assert min(counts.values()) >= 5
    held_out = "the probe is tested on targets"
    assert found == [
        ("image", 4, 0, None, held_out),
        ("noise", 4, 4, "folds", None),
        ("query", 4, 0, None, held_out),
    ]


def test_cosines_with_the_shift_are_those_of_the_stored_shift(runs: Runs) -> None:
    with connect(runs.store, run="latest") as sql:
        rows = sql.sql(
            "SELECT condition, image, part, cosine, cosine_low, cosine_high, anchors FROM direction_cosines "
            "WHERE block = 3"
        ).fetchall()
        ((shift,),) = sql.sql("SELECT vector FROM shifts WHERE image = 'blank' AND block = 3").fetchall()
        directions = {name: read_states(sql, "anchor", name) for name in ASKED["directions"]}
    # Of the blank image there is a Δ, of noise the states of the anchors.
    assert {row[:3] for row in rows} == {
        (name, image, "all") for name in directions for image in ("blank", "noise")
    }
    noise = directions["noise"].vectors.mean(axis=0) - directions["query"].vectors.mean(axis=0)
    for condition, image, _, cosine, low, high, anchors in rows:
        delta = np.array(shift) if image == "blank" else noise
        assert cosine == pytest.approx(find_cosine(subtract_means(directions[condition]), delta), abs=1e-4)
        assert low < high
        assert anchors == len(directions["query"].samples)


def test_what_a_run_without_directions_made_keeps_its_keys_and_a_second_run_reuses_all(runs: Runs) -> None:
    keys = list_keys(runs.store)
    assert "probe" not in runs.before
    assert all(made <= keys[stage] for stage, made in runs.before.items())
    # One more condition of two data sets' anchors, and nothing answered again.
    assert len(keys["embed"]) == len(runs.before["embed"]) + 2
    assert keys["generate"] == runs.before["generate"]
    assert len(keys["probe"]) == len(ASKED["directions"])
    made = {path: path.stat().st_mtime_ns for path in (runs.store / "manifests").glob("*/*.json")}
    run_plainly(runs.spec, runs.store)
    assert list_keys(runs.store) == keys
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_a_spec_without_directions_is_recorded_as_before_there_were_any(runs: Runs) -> None:
    with connect(runs.store) as sql:
        specs = sql.sql(
            "SELECT json_extract(record, '$.spec.directions')::VARCHAR FROM runs ORDER BY created_at, run_id"
        ).fetchall()
    assert specs[0] == (None,)
    assert specs[1] == ('["query","image","noise"]',)


def test_the_report_has_tables_and_a_figure_and_the_terminal_keeps_to_eighty_columns(runs: Runs) -> None:
    folder = runs.store / report_folder(runs.result.run_id)
    text = (folder / "report.md").read_text()
    section = text.split("## Directions\n")[1].split("\n## ")[0]
    assert "### Harmful against harmless states" in section
    assert "### Cosine of labelled directions with Δ" in section
    assert "Noise image (anchors)" in section
    assert (folder / "figures" / "directions-1.png").read_bytes().startswith(b"\x89PNG")
    summary = runs.result.summary
    console = Console(width=80, file=io.StringIO(), record=True)
    for grid in render_directions(summary.directions, summary.turned):
        console.print(grid)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("CMRM α=0.5 ") for line in lines)


WRONG = [
    ({"directions": ["text"]}, r"directions\.0 .*Input should be 'query'"),
    ({"directions": ["query", "query"]}, r"directions.*query"),
    ({"directions": ["query"], "anchors": {"from": {"own": 0}}}, r"anchors\.from: .*measured on anchors"),
]


@pytest.mark.parametrize(("changes", "line"), WRONG, ids=["unknown", "twice", "no anchors"])
def test_a_mistake_is_one_line_with_its_field_and_the_fix(changes: dict[str, Any], line: str) -> None:
    content = {
        "model": {"id": "organism"},
        "datasets": {"own": {"format": "jsonl", "path": "own.jsonl"}},
        "anchors": {"from": {"own": 0.5}},
        "interventions": [],
        **changes,
    }
    with pytest.raises(UserError, match=line) as caught:
        check_spec(content, where="spec")
    assert len(str(caught.value).splitlines()) == 1


def test_a_control_that_the_model_cannot_be_shown_is_refused_before_any_work(
    tmp_path: Path, write_spec: Callable[..., Path]
) -> None:
    spec = read_spec(
        write_spec(tmp_path / "data", BUILDERS["mllama"](tmp_path / "mllama"), directions=["gap"])
    )
    with pytest.raises(UserError, match=r"^directions: there is no gap"):
        make_plan(spec, store=Store.create(tmp_path / "store"))
