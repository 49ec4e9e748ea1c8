"""The notebooks in examples/ run from the first cell to the last and find what they say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.shared_runs import run_plainly

ROOT = Path(__file__).parents[2]
# Runs code cells, from standard input, one after the other in one namespace, as a kernel does; then prints some values.
RUNNER = """
import json, sys
import matplotlib
matplotlib.use("Agg")
told = json.load(sys.stdin)
names = {"__name__": "__main__"}
for number, cell in enumerate(told["cells"]):
    exec(compile(cell, f"cell {number}", "exec"), names)
print("\\n" + json.dumps({name: names[name] for name in told["names"]}))
"""


def read_cells(name: str) -> list[str]:
    """The code cells of a notebook."""
    notebook = json.loads((ROOT / "examples" / name).read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run_cells(cells: list[str], folder: Path, *names: str) -> dict:
    """Run cells in a process of their own that works in a folder; the values of some names at the end."""
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps({"cells": cells, "names": names}),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store of the run that `ask_a_store.ipynb` makes, made without Prefect."""
    folder = tmp_path_factory.mktemp("notebook")
    names: dict[str, str] = {}
    exec(read_cells("ask_a_store.ipynb")[0], names)
    (folder / "small.yaml").write_text(names["SPEC"])
    run_plainly(folder / "small.yaml", folder / "cmrm-store")
    return folder


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_notebook_4_without_outputs_or_places_of_a_machine(path: Path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        assert cell["cell_type"] in {"code", "markdown"}
        assert not cell.get("outputs")
        assert not re.search(r"/(home|tmp|root|work|Users)/", "".join(cell["source"]))


def test_measure_and_steer_shows_the_failure_and_its_cure(tmp_path: Path):
    found = run_cells(read_cells("measure_and_steer.ipynb"), tmp_path, "unsafe_as_text", "unsafe", "utility")
    assert found["unsafe_as_text"] <= 0.05
    assert found["unsafe"][0] >= 0.4
    assert found["unsafe"][-1] <= 0.05
    assert found["utility"][-1] >= 0.8
    assert (tmp_path / "delta.safetensors").is_file()


def test_ask_a_store_finds_the_image_further_along_the_shift(store: Path):
    cells = [*read_cells("ask_a_store.ipynb"), "shares = [float(one) for one in unsafe.values]"]
    cells.append("rows = found.table.to_pylist()")
    found = run_cells(cells, store, "along", "rows", "shares")
    assert found["along"]["image"] > found["along"]["query"] + 1
    assert {row["condition"]: row["along_shift"] for row in found["rows"]} == {
        name: pytest.approx(value, abs=0.006) for name, value in found["along"].items()
    }
    assert max(found["shares"]) >= 0.4
    assert min(found["shares"]) == 0
