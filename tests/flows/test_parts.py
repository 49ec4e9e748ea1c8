"""Runs that take Δ apart: the table of parts, interventions by part, their keys, and mistakes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cmrm.errors import UserError
from flows.plan.plan import make_plan
from flows.report.writers.terminal_parts import render_parts
from flows.spec.spec import check_spec, read_spec
from storage.records.layout import report_folder
from storage.sql.database import connect
from storage.store import Store
from tasks.report import figure
from tasks.report.parts import choose_blocks
from tests.conformance.builders import BUILDERS
from tests.flows.shared_runs import run_plainly

FEW: dict[str, Any] = {
    "conditions": ["gap", "image"],
    "target_states": [],
    "judges": ["refusal"],
    "shard_size": 64,
}
WHOLE = {"name": "CMRM", "alpha": 0.5}
BY_PART = {"name": "part", "alpha": 0.5, "grid": {"part": ["positions", "marks", "image"]}}
PARTS = ("positions", "marks", "image")


def list_keys(store: Path, stage: str) -> set[str]:
    return {path.stem for path in (store / "manifests" / stage).glob("*.json")}


@pytest.fixture(scope="module")
def runs(
    llava_folder: Path, tmp_path_factory: pytest.TempPathFactory, write_spec: Callable[..., Path]
) -> tuple[Path, dict[str, set[str]], Any]:
    """A store after a run without parts and one with them, the keys after the first, and the second's result."""
    folder = tmp_path_factory.mktemp("parts")
    store = folder / "store"
    run_plainly(write_spec(folder / "data", llava_folder, **FEW, interventions=[WHOLE]), store)
    before = {stage: list_keys(store, stage) for stage in ("embed", "shift", "generate")}
    spec = write_spec(folder / "data", llava_folder, **FEW, interventions=[WHOLE, BY_PART], parts=["noise"])
    return store, before, run_plainly(spec, store, save=figure._save)


def test_parts_add_up_in_every_block_and_are_the_means_of_the_states_differences(runs: Any) -> None:
    store, _, _ = runs
    with connect(store, run="latest") as sql:
        rows = sql.sql(
            "SELECT image, block, sum(share) FILTER (part IN ('positions', 'marks', 'image')), count(*), "
            "min(anchors), max(anchors) FROM shift_parts GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        assert [row[:2] for row in rows] == [
            (image, block) for image in ("blank", "noise") for block in range(4)
        ]
        assert all(row[2] == pytest.approx(1.0, abs=1e-9) for row in rows)
        assert {row[3:] for row in rows} == {(5, 9, 9)}
        states: dict[tuple[str, str], np.ndarray] = {}
        for condition in ("query", "gap", "marks", "blank", "filler"):
            found = sql.execute(
                "SELECT vector FROM hidden_states JOIN samples USING (dataset, sample_id) WHERE split = 'anchor' AND "
                "block = 3 AND intervention = '' AND condition = ? ORDER BY dataset, sample_id",
                [condition],
            ).fetchall()
            states[condition] = np.array([vector for (vector,) in found], dtype=np.float64)
        measured = dict(
            sql.sql("SELECT part, norm FROM shift_parts WHERE image = 'blank' AND block = 3").fetchall()
        )
    pairs = {
        "positions": ("gap", "query"),
        "marks": ("marks", "gap"),
        "image": ("blank", "marks"),
        "all": ("blank", "query"),
        "filler": ("filler", "query"),
    }
    for part, (later, earlier) in pairs.items():
        mean = (states[later] - states[earlier]).mean(axis=0)
        assert measured[part] == pytest.approx(np.linalg.norm(mean), rel=1e-6)


def test_shifts_of_the_parts_add_up_to_that_of_all_of_delta(runs: Any) -> None:
    store, _, _ = runs
    with connect(store, run="latest") as sql:
        found = dict(
            sql.sql("SELECT part, vector FROM shifts WHERE image = 'blank' AND block = 3").fetchall()
        )
    assert set(found) == {*PARTS, "all"}
    np.testing.assert_allclose(
        np.sum([found[part] for part in PARTS], axis=0), found["all"], atol=1e-5, rtol=1e-5
    )


def test_what_has_no_parts_keeps_its_keys(runs: Any) -> None:
    store, before, _ = runs
    assert all(keys <= list_keys(store, stage) for stage, keys in before.items())
    assert len(before["shift"]) == 1
    # One arm for each part, under one condition, on two data sets.
    assert len(list_keys(store, "generate")) == len(before["generate"]) + 2 * len(PARTS)


def test_the_report_has_the_tables_a_figure_and_the_setting_that_tells_the_arms_apart(runs: Any) -> None:
    store, _, result = runs
    folder = store / report_folder(result.run_id)
    text = (folder / "report.md").read_text()
    assert "### Parts of Δ: blank" in text
    assert "### Parts of Δ: noise" in text
    assert (folder / "figures" / "parts-1.png").read_bytes().startswith(b"\x89PNG")
    assert {row["part"] for row in result.summary.parts} == {*PARTS, "all", "filler"}
    header = next(line for line in text.split("## Interventions")[1].splitlines() if line.startswith("|"))
    assert "Part" in header


def test_the_terminal_shows_shares_that_add_up_within_eighty_columns(runs: Any) -> None:
    _, _, result = runs
    console = Console(width=80, file=io.StringIO(), record=True)
    for grid in render_parts(result.summary.parts):
        console.print(grid)
    lines = console.export_text().splitlines()
    assert sum(line.rstrip().endswith(" 100.0") for line in lines) == 2 * 4
    assert max(map(len, lines)) <= 80


def test_a_long_name_leaves_no_ragged_line_under_the_terminals_table(runs: Any) -> None:
    _, _, result = runs
    rows = [{**row, "model": f"{name}@1"} for name in ("a" * 24, "b") for row in result.summary.parts]
    console = Console(width=80, file=io.StringIO(), record=True)
    for grid in render_parts(rows):
        console.print(grid)
    lines = [line.strip() for line in console.export_text().splitlines()]
    for first in (number for number, line in enumerate(lines) if line.startswith("Δ of")):
        caption = lines[first : first + 2]
        assert " ".join(caption).endswith("add up to Δ.")
        assert len(caption[0]) > 50


def test_of_many_blocks_the_first_the_last_and_some_between_are_shown() -> None:
    assert choose_blocks(range(8), 16) == list(range(8))
    chosen = choose_blocks(range(80), 16)
    assert (chosen[0], chosen[-1], len(chosen)) == (0, 79, 16)


WRONG = [
    (
        {"interventions": [WHOLE | {"part": "position"}]},
        r"interventions\.0\.part .*Input should be 'all', 'posit",
    ),
    (
        {"interventions": [WHOLE | {"part": "marks", "level": "sample"}]},
        r"interventions\.0: part: .*; use level: dataset",
    ),
    ({"interventions": [BY_PART | {"method": "pca"}]}, r"interventions\.0: part: .*; use method: mean"),
    (
        {"interventions": [WHOLE | {"part": "image", "image": "gap"}]},
        r"interventions\.0: part: gap shows no image, .*such as blank",
    ),
    ({"parts": ["filler"]}, r"parts .*filler shows no image; name a meaningless image, such as blank"),
    (
        {"parts": ["blank"], "anchors": {"from": {"own": 0}}},
        r"anchors\.from: .*measured on anchors; give a share",
    ),
]


@pytest.mark.parametrize(("changes", "line"), WRONG, ids=[str(number) for number in range(len(WRONG))])
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


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"parts": ["blank"]}, "parts: Δ cannot be taken apart"),
        ({"conditions": ["query", "image", "marks"]}, "conditions: there is no marks"),
        ({"interventions": [WHOLE | {"image": "gap"}]}, r"interventions\.image: there is no gap"),
        (
            {"interventions": [{"name": "r", "kind": "random", "image": "filler"}]},
            r"interventions\.image: there is no filler",
        ),
    ],
)
def test_a_model_whose_image_takes_no_positions_is_refused_before_any_work(
    tmp_path: Path, write_spec: Callable[..., Path], changes: dict[str, Any], field: str
) -> None:
    model = BUILDERS["mllama"](tmp_path / "mllama")
    spec = read_spec(write_spec(tmp_path / "data", model, **{**FEW, "conditions": ["image"], **changes}))
    with pytest.raises(UserError, match=rf"^{field} in .*cross-attention.*; leave it out\.$"):
        make_plan(spec, store=Store.create(tmp_path / "store"))
