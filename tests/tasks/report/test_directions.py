"""Directions in a report: answers that turned unsafe, which rows are shown, and names that are hostile."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import roc_auc_score

from flows.report.tables.directions import make_directions_table, make_turned_table
from flows.report.writers.terminal_directions import render_directions
from storage.records.hashing import stage_key
from storage.store import Store
from storage.tables.arrow import from_rows, table_path
from storage.tables.parquet import to_parquet
from storage.tables.schemas import KINDS
from tasks.report.direction_figure import draw_directions
from tasks.report.directions import Directions, choose_rows, compare_turned, gather_directions
from tasks.report.outcomes import Outcomes, SampleInfo
from tests.made_up import EVIL

CHANCE = np.random.default_rng(2)
COUNT = 40
HARMFUL = [place % 4 != 3 for place in range(COUNT)]
ALONG = {condition: CHANCE.normal(1.0, 0.5, size=COUNT) for condition in ("query", "image")}
# Unsafe as text, of which turning is not asked; and with the image, where the place along the direction is low.
UNSAFE_TEXT = [place < 4 for place in range(COUNT)]
UNSAFE_IMAGE = [bool(along + CHANCE.normal(0, 0.3) < 0.8) for along in ALONG["image"]]


def judge(place: int, condition: str, *, unsafe: bool) -> dict[str, Any]:
    return {
        "model": "m@1",
        "judge": "refusal",
        "dataset": "d",
        "sample_id": str(place),
        "condition": condition,
        "intervention": "",
        "alpha": None,
        "verdict": "unsafe" if unsafe else "safe",
        "refused": not unsafe,
        "score": None,
    }


def describe(place: int, condition: str) -> dict[str, Any]:
    return {
        "model": "m@1",
        "dataset": "d",
        "sample_id": str(place),
        "condition": condition,
        "intervention": "",
        "alpha": None,
        "block": 2,
        "distance": 3 * ALONG[condition][place],
        "along": ALONG[condition][place],
    }


@pytest.fixture
def made(tmp_path: Path) -> tuple[Store, Any]:
    """A store with places of forty targets under two conditions."""
    store, key = Store.create(tmp_path / "store"), stage_key("probe", {})
    rows = [describe(place, condition) for condition in ALONG for place in range(COUNT)]
    tables = {"projections": from_rows(rows, "projections")} | {
        kind: KINDS[kind].schema.empty_table() for kind in ("directions", "direction_cosines")
    }
    files = {table_path(kind, key): to_parquet(table, kind) for kind, table in tables.items()}
    return store, store.commit("probe", key, files)


def collect(*, unsafe_text: list[bool]) -> Outcomes:
    samples = [
        SampleInfo(dataset="d", sample_id=str(place), harmful=harmful, split_by=str(place))
        for place, harmful in enumerate(HARMFUL)
    ]
    outcomes = Outcomes(samples=samples)
    for condition, unsafe in (("query", unsafe_text), ("image", UNSAFE_IMAGE)):
        outcomes.add(judge(place, condition, unsafe=one) for place, one in enumerate(unsafe))
    return outcomes


def test_of_harmful_questions_that_were_safe_as_text_the_turned_are_held_against_the_others(
    made: tuple[Store, Any],
) -> None:
    store, manifest = made
    (row,) = gather_directions(store, [manifest], collect(unsafe_text=UNSAFE_TEXT)).turned
    kept = [place for place in range(COUNT) if HARMFUL[place] and not UNSAFE_TEXT[place]]
    turned = np.array([UNSAFE_IMAGE[place] for place in kept])
    along = ALONG["image"][kept]
    assert (row["condition"], row["block"]) == ("image", 2)
    assert (row["turned"], row["stayed"]) == (turned.sum(), (~turned).sum())
    assert row["turned_along"] == pytest.approx(along[turned].mean())
    assert row["stayed_along"] == pytest.approx(along[~turned].mean())
    assert row["turned_along_low"] < row["turned_along"] < row["turned_along_high"]
    assert row["auroc"] == pytest.approx(roc_auc_score(turned, -along))


def test_where_nothing_was_safe_as_text_nothing_turned(made: tuple[Store, Any]) -> None:
    store, manifest = made
    assert not [*compare_turned(store, [manifest], collect(unsafe_text=[True] * COUNT))]


def make_row(block: int, **changes: Any) -> dict[str, Any]:
    numbers = ("norm", "text_cosine", "harmful_along", "harmless_along", "auroc")
    return {
        "model": f"{EVIL}@1",
        "condition": "image",
        "intervention": "",
        "alpha": None,
        "split": "target",
        "block": block,
        "harmful": 1_200,
        "harmless": 3,
        "state": 4.0,
        **{f"{name}{end}": 0.75 for name in numbers for end in ("", "_low", "_high")},
        "tested": "held out",
        "trained": 20,
        "missing": None,
        **changes,
    }


NOTHING = dict.fromkeys(f"auroc{end}" for end in ("", "_low", "_high"))
ROWS = [
    *(make_row(block) for block in range(40)),
    *(
        make_row(block, split="anchor", missing="the probe is tested on targets", **NOTHING)
        for block in range(40)
    ),
    *(make_row(block, intervention=f"\x1b[31m\u202e{EVIL}", alpha=0.5) for block in range(40)),
    *(
        make_row(
            block, condition="blank", split="anchor", tested=None, missing="3 harmless anchors", **NOTHING
        )
        for block in range(40)
    ),
]


def test_targets_are_shown_where_there_are_any_and_the_reason_where_there_is_no_auroc() -> None:
    shown = choose_rows(ROWS)
    assert [(row["condition"], row["split"]) for row in shown[::40]] == [
        ("image", "target"),
        ("image", "target"),
        ("blank", "anchor"),
    ]
    table = make_directions_table(ROWS)
    assert table is not None
    assert table.length == 3 * 3
    assert [row[1].text for row in table.row_groups[0].rows[:3]] == ["0", "20", "39"]
    assert "No AUROC: 3 harmless anchors." in table.note
    assert "tested on targets." not in table.note
    assert make_directions_table([]) is None
    assert make_turned_table([]) is None


def test_a_length_is_in_no_per_cent_of_states_without_length() -> None:
    rows = [make_row(0, norm=0.0, state=0.0), make_row(1)]
    table = make_directions_table(rows)
    assert table is not None
    assert [row[5].text for row in table.row_groups[0].rows] == ["–", "18.8"]
    (figure,) = draw_directions(Directions(directions=tuple(rows)))
    assert figure.save()["png"].startswith(b"\x89PNG")


def test_hostile_names_leave_the_terminal_and_the_figure_as_they_are() -> None:
    turned = [
        {
            **{name: ROWS[80][name] for name in ("model", "condition", "intervention", "alpha")},
            "block": 39,
            "turned": 3,
            "stayed": 4,
            **{
                f"{name}{end}": 0.5
                for name in ("turned_along", "stayed_along", "auroc")
                for end in ("", "_low", "_high")
            },
        }
    ]
    console = Console(width=80, file=io.StringIO(), record=True)
    for grid in render_directions([*ROWS, make_row(0, model="other@1")], turned):
        console.print(grid)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert not {"\x1b", "\r", "\u202e"} & set(text)
    (figure,) = draw_directions(Directions(directions=tuple(ROWS)))
    files = figure.save()
    assert files["png"].startswith(b"\x89PNG")
    assert files["csv"].count(b"\n") > 3 * 40
