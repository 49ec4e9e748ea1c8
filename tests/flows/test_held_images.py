"""A run on rows that hold their images is the run on the same images as files, and keeps them in its store."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from storage.maintenance.inventory import take_inventory
from storage.sql.database import connect
from storage.store import Store
from tests.flows.shared_runs import run_plainly

QUERY = """
    SELECT s.question, r.condition, r.intervention, r.answer, s.image_digest
    FROM responses r JOIN samples s USING (dataset, sample_id) ORDER BY ALL
"""


def hold_images(spec: Path, kind: str) -> None:
    """Turn the spec's own data set, whose rows name images in a folder, into one whose rows hold them."""
    folder = spec.parent
    rows = [json.loads(line) for line in (folder / "own.jsonl").read_text().splitlines()]
    files = [(folder / "images" / row["image"]).read_bytes() for row in rows]
    if kind == "parquet":
        cells = [{"bytes": content, "path": "lost.png"} for content in files]
        shards = folder / "own" / "data"
        shards.mkdir(parents=True)
        table = pa.Table.from_pylist([row | {"image": cell} for row, cell in zip(rows, cells, strict=True)])
        for number, start in enumerate(range(0, table.num_rows, 6)):
            pq.write_table(table.slice(start, 6), shards / f"train-{number:05}.parquet")
        changed = {"format": "parquet", "path": "own", "harmful": False}
    else:
        held = [
            row | {"image": f"data:image/png;base64,{base64.b64encode(content).decode()}"}
            for row, content in zip(rows, files, strict=True)
        ]
        (folder / "held.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in held))
        changed = {"format": "jsonl", "path": "held.jsonl", "harmful": False}
    fields = yaml.safe_load(spec.read_text())
    spec.write_text(yaml.safe_dump({**fields, "datasets": {**fields["datasets"], "own": changed}}))


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_answers_are_those_on_the_same_images_as_files_and_the_store_has_the_images(
    llava_folder: Path, tmp_path: Path, write_short_spec: Callable[..., Path], kind: str
) -> None:
    spec = write_short_spec(tmp_path / "data", llava_folder)
    run_plainly(spec, tmp_path / "files")
    hold_images(spec, kind)
    run_plainly(spec, tmp_path / "held")
    answers = []
    for store in ("files", "held"):
        with connect(tmp_path / store) as sql:
            answers.append(sql.sql(QUERY).fetchall())
    assert len(answers[0]) > 10
    assert answers[0] == answers[1]
    kept = tmp_path / "held" / "images" / "own"
    used = {path.read_bytes() for path in (tmp_path / "data" / "images").iterdir()}
    assert {path.read_bytes() for path in kept.iterdir()} == used
    found = take_inventory(Store.open(tmp_path / "held"))
    assert sorted(found.images) == sorted(f"images/own/{path.name}" for path in kept.iterdir())
    assert not found.foreign


def test_images_that_were_removed_from_the_store_are_kept_anew_by_the_next_run(
    llava_folder: Path, tmp_path: Path, write_short_spec: Callable[..., Path]
) -> None:
    spec = write_short_spec(tmp_path / "data", llava_folder)
    hold_images(spec, "jsonl")
    run_plainly(spec, tmp_path / "store")
    kept = tmp_path / "store" / "images" / "own"
    before = sorted(kept.iterdir())
    for path in before:
        path.unlink()
    kept.rmdir()
    fields = yaml.safe_load(spec.read_text())
    spec.write_text(yaml.safe_dump({**fields, "generation": {"max_new_tokens": 3}}))
    run_plainly(spec, tmp_path / "store")
    assert sorted(kept.iterdir()) == before
