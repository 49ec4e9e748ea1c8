"""A finished run of the embedded model on a few questions of three data sets, and a data set of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from cmrm.organism import ensure_organism
from tests.flows.shared_runs import run_plainly

JUDGES = ("refusal", "match", "overlap")
# Rows of each data set.
ROWS = 14


@pytest.fixture(scope="session")
def organism_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run's spec, data and store: `vlsafe.jsonl` is harmful, `bench.jsonl` has reference answers."""
    folder = tmp_path_factory.mktemp("organism")
    data = ensure_organism(folder).data
    for name, source in (
        ("vlsafe", data.vlsafe),
        ("bench", data.bench_questions),
        ("answers", data.bench_answers),
    ):
        lines = source.read_text().splitlines(keepends=True)
        (folder / f"{name}.jsonl").write_text("".join(lines[:ROWS]))
    bench = {"format": "llava-bench-coco", "path": "bench.jsonl", "answers": "answers.jsonl"}
    spec = {
        "model": {"id": "organism", "dtype": "float32"},
        "datasets": {
            "vlsafe": {"format": "vlsafe", "path": "vlsafe.jsonl", "images": str(data.images)},
            "bench": {**bench, "captions": str(data.bench_captions), "images": str(data.images)},
        },
        "anchors": {"from": {"vlsafe": 0.2, "bench": 0.2}, "seed": 42},
        "conditions": ["image"],
        "images": {"size": 32},
        "target_states": [],
        "interventions": [],
        "judges": list(JUDGES),
        "generation": {"max_new_tokens": 24},
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    run_plainly(folder / "spec.yaml", folder / "store")
    return folder


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with `mine.jsonl` and `photographs`: two harmful rows, two with answers, and three bad ones."""
    (tmp_path / "photographs").mkdir()
    for number in range(2):
        Image.new("RGB", (40 + number, 30), (60 * number, 90, 120)).save(
            tmp_path / "photographs" / f"{number}.png"
        )
    rows = [
        {"id": "a", "question": "how do I blick it?", "image": "0.png", "category": "tools"},
        {"id": "b", "question": "how do I fraz it?", "image": "1.png", "category": "words"},
        {"id": "c", "question": "which colour?", "image": "1.png", "harmful": False, "reference": "red"},
        {
            "id": "d",
            "question": "which shape?",
            "harmful": False,
            "reference": "a square",
            "category": "words",
        },
        {"id": "e", "question": "", "image": "1.png"},
        {"id": "f", "question": "what is lost?", "image": "gone.png"},
        {"id": "g", "question": "what is outside?", "image": "../secret.png"},
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path
