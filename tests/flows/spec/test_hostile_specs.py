"""Hostile specs and rows, through the door of `cmrm run` up to the plan: one printable line each, soon, or success."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from cmrm.errors import UserError
from flows.plan.plan import Plan, make_plan
from flows.spec.errors import MOST_LINES
from flows.spec.organism import place_organism
from flows.spec.spec import read_spec
from storage.errors import StoreError
from storage.store import Store
from tests.hostile import make_hostile_rows, make_hostile_specs, make_hostile_texts

MOST_SECONDS = 5.0
MOST_CHARACTERS = 1500


@pytest.fixture
def folder(tmp_path: Path, llava_folder: Path) -> Path:
    """A folder with what the good spec names: a model, two data files and images."""
    (tmp_path / "model").symlink_to(llava_folder)
    rows = [{"question": f"why {number}?", "category": "a", "image": "1.png"} for number in range(8)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "table.csv").write_text("question\nwhy?\n")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "1.png")
    return tmp_path


def plan_as_a_run_does(spec: Path) -> Plan:
    """Read a spec and resolve what it names, as `cmrm run` does before any work."""
    read = read_spec(spec)
    return make_plan(place_organism(read), store=Store.open(read.store or spec.parent / "store"))


def survey_as_a_run_does(plan: Plan) -> None:
    """Read a plan's data through, as `cmrm run` does to plan the first stage."""
    plan.pairings()
    plan.ingest_jobs({})


def is_a_line(text: str) -> bool:
    return text.isprintable() and 0 < len(text) <= MOST_CHARACTERS


def find_faults(
    cases: Iterator[tuple[str, bytes]], changed: Path, work: Callable[[], None], most_lines: int = 1
) -> tuple[Counter[str], list[str]]:
    """Put each case's bytes into a file and do some work; what came of it, and what is wrong with that."""
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    for name, data in cases:
        changed.write_bytes(data)
        start = time.monotonic()
        try:
            work()
        except (UserError, StoreError) as error:
            outcomes["refused"] += 1
            lines = str(error).splitlines()
            if len(lines) > most_lines or not all(map(is_a_line, lines)):
                faults.append(f"{name}: {error!s:.1000}")
        except Exception as error:  # noqa: BLE001 - whatever else it is, a user would see a traceback
            faults.append(f"{name}: {type(error).__name__}: {error!s:.300}")
        else:
            outcomes["planned"] += 1
        if time.monotonic() - start > MOST_SECONDS:
            faults.append(f"{name}: took {time.monotonic() - start:.1f} s")
    return outcomes, faults


def test_each_hostile_spec_is_planned_or_refused_in_one_line(folder: Path) -> None:
    spec = folder / "spec.yaml"
    cases = ((name, text.encode("utf-8")) for name, text in make_hostile_specs())
    outcomes, faults = find_faults(cases, spec, lambda: survey_as_a_run_does(plan_as_a_run_does(spec)))
    assert faults == [], "\n".join(faults)
    assert sum(outcomes.values()) >= 600
    assert outcomes["refused"] > 400
    assert outcomes["planned"] > 50


def test_each_text_that_is_no_spec_is_refused_in_a_few_lines(folder: Path) -> None:
    spec = folder / "spec.yaml"
    cases = ((name, text.encode("utf-8")) for name, text in make_hostile_texts())
    outcomes, faults = find_faults(
        cases, spec, lambda: survey_as_a_run_does(plan_as_a_run_does(spec)), most_lines=MOST_LINES + 1
    )
    assert faults == [], "\n".join(faults)
    assert outcomes["refused"] > 120


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_each_hostile_data_file_is_read_or_refused_in_one_line(folder: Path, kind: str) -> None:
    data, spec = folder / f"hostile.{kind}", folder / "spec.yaml"
    spec.write_text(
        "model: {id: model}\nanchors: {from: {own: 0.5}}\n"
        f"datasets: {{own: {{format: {kind}, path: {data.name}, images: images}}}}\n"
    )
    plan = plan_as_a_run_does(spec)
    outcomes, faults = find_faults(make_hostile_rows(), data, lambda: survey_as_a_run_does(plan))
    assert faults == [], "\n".join(faults)
    assert outcomes["refused"] > 5
    assert outcomes["planned"] > 150
