"""A person's own photographs through a LLaVA with the real sizes: 336 pixels, patches of 14, 576 image tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import skimage
import yaml
from PIL import Image

from flows.run import run_spec
from flows.spec.spec import read_spec
from storage.sql.database import connect
from tasks.report import stage as report
from tests.conftest import MODEL_PACKAGES, build_llava
from tests.made_once import copy_made

PHOTOGRAPHS = Path(skimage.__file__).parent / "data"


def build_large_llava(folder: Path) -> None:
    """Save a random LLaVA of the real sizes."""
    build_llava(folder, image_size=336, patch_size=14)


def save_in_every_mode(folder: Path) -> list[str]:
    """The same few photographs as cameras, scanners and web pages save them; their names."""
    folder.mkdir(parents=True)
    cat, cup, rocket = (
        Image.open(PHOTOGRAPHS / name) for name in ("chelsea.png", "coffee.png", "rocket.jpg")
    )
    cat.save(folder / "rgb.png")
    Image.open(PHOTOGRAPHS / "camera.png").save(folder / "grey.png")
    with_alpha = cup.convert("RGBA")
    with_alpha.putalpha(Image.linear_gradient("L").resize(cup.size))
    with_alpha.save(folder / "rgba.png")
    cup.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.gif")
    rocket.convert("CMYK").save(folder / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    rocket.save(folder / "rotated.jpg", exif=exif)
    cat.convert("L").convert("I;16").save(folder / "sixteen-bit.png")
    cat.resize((7, 900)).save(folder / "narrow.webp")
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.usefixtures("prefect_server")
def test_own_jsonl_with_photographs_of_all_modes_runs_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "find_groups", lambda *_: {})
    copy_made(
        "llava-336", build_large_llava, tmp_path / "model", packages=MODEL_PACKAGES, sources=[build_llava]
    )
    names = save_in_every_mode(tmp_path / "photographs")
    assert len(names) == 8
    lines = [{"prompt": f"What is in picture {number}?", "file": name} for number, name in enumerate(names)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    dataset = {
        "format": "jsonl",
        "path": "mine.jsonl",
        "images": "photographs",
        "columns": {"question": "prompt", "image": "file"},
    }
    spec = {
        "model": {"id": "model"},
        "datasets": {"mine": dataset},
        "anchors": {"from": {"mine": 0.5}},
        "conditions": ["query", "image", "blank"],
        "generation": {"max_new_tokens": 3},
        "batch_size": 4,
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    result = run_spec(read_spec(tmp_path / "spec.yaml"), store=str(tmp_path / "store"), server=None)
    assert result.summary.quarantined == ()
    with connect(tmp_path / "store") as connection:
        targets = connection.sql("SELECT count(*) FROM samples WHERE split = 'target'").fetchall()[0][0]
        answers = connection.sql("SELECT count(*), count(DISTINCT sample_id) FROM responses").fetchall()
        assert 0 < targets < 8
        assert answers == [(targets * 5, targets)]
