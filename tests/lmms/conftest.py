"""A folder with three tasks on made-up pictures, in which the commands of docs/utility.md have run."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cmrm.organism.world import COLORS, SIDES, imagine_scene, paint
from tests.lmms.lmms_runs import install, read_blocks, run

TASKS = Path(__file__).with_name("tasks")
QUESTIONS = 24


@dataclass(frozen=True)
class Bench:
    """The folder, the rows of each task with their pictures, and what the commands printed."""

    folder: Path
    rows: dict[str, list[dict[str, Any]]]
    printed: str


def make_rows() -> dict[str, list[dict[str, Any]]]:
    """Rows of three tasks about the same pictures."""
    rng = random.Random(5)
    rows: dict[str, list[dict[str, Any]]] = {"colors": [], "sides": [], "choices": []}
    for _ in range(QUESTIONS):
        scene = imagine_scene(rng, split="test")
        item, picture = scene.items[0], paint(scene, rng).picture
        asked = f"what color is the {item.shape}"
        rows["colors"].append({"image": picture, "question": f"{asked}?", "answer": f"It is {item.color}"})
        side = rng.choice(SIDES)
        rows["sides"].append(
            {
                "image": picture,
                "question": f"is the {item.shape} on the {side}?",
                "place": f"{item.shape} on the {side}",
                "answer": "yes" if item.side == side else "no",
            }
        )
        options = [item.color, *rng.sample(sorted(set(COLORS) - {one.color for one in scene.items}), 2)]
        rng.shuffle(options)
        letter = "ABC"[options.index(item.color)]
        rows["choices"].append(
            {"image": picture, "question": asked, "options": json.dumps(options), "answer": letter}
        )
    return rows


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows with their pictures as PNG, which `datasets` decodes by the schema's metadata."""
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "image"}
    images = [{"bytes": _to_png(row["image"]), "path": None} for row in rows]
    table = pa.table(
        {"image": pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()})), **columns}
    )
    features = {
        "image": {"_type": "Image"},
        **{name: {"dtype": "string", "_type": "Value"} for name in columns},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def _to_png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def bench(tmp_path_factory) -> Bench:
    """The folder in which the page's commands have run, on two tasks more than the page's."""
    folder = tmp_path_factory.mktemp("lmms")
    rows = make_rows()
    shutil.copytree(TASKS, folder / "tasks")
    for task, own in rows.items():
        write_parquet(folder / f"{task}.parquet", own)
    blocks = read_blocks()
    for title, (language, text) in blocks.items():
        if language != "sh":
            (folder / title).write_text(text)
    install(folder)
    _, commands = blocks["try"]
    assert commands.count("--tasks colors ") == 2
    commands = commands.replace("--tasks colors ", "--tasks colors,sides,choices ")
    done = run(folder, "bash", "-ec", commands)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Bench(folder=folder, rows=rows, printed=done.stdout)
