"""A run on rows with a video, a sound or several images: states, Δ, answers, report, and what SQL says of them."""

from __future__ import annotations

import base64
import gzip
import json
import re
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from cmrm.errors import UserError
from storage.sql.database import connect
from tests.conformance.examining import run_elsewhere
from tests.flows.shared_runs import run_plainly
from tests.made_once import find_shared

SPEC = {
    # As it is in the process that has torchvision.
    "model": {"id": "model", "dtype": "float32", "device": "cpu", "image_backend": "pillow"},
    "datasets": {"moving": {"format": "jsonl", "path": "rows.jsonl", "images": "files"}},
    "conditions": ["query", "image", "blank", "gap"],
    "anchors": {"from": {"moving": 0.5}, "seed": 2},
    "positions": ["last", "mean_image"],
    "target_states": ["image"],
    "interventions": [
        {"name": "CMRM", "alpha": 1.0},
        {"name": "CMRM own", "level": "sample", "alpha": 1.0},
    ],
    "images": {"size": 32},
    "generation": {"max_new_tokens": 3},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moving")
    (folder / "files").mkdir()
    rows = [row for number in range(2) for row in write_media(folder / "files", number)]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    shared = find_shared("conformance", tmp_path_factory)
    shared.mkdir(exist_ok=True)
    run_elsewhere(shared, "tests.flows.moving_media", str(folder))
    run_plainly(folder / "spec.yaml", folder / "store")
    return folder


def write_media(files: Path, number: int) -> list[dict[str, Any]]:
    """Write a video, a sound and two images, and return a row on each."""
    noise = np.random.default_rng(number)
    drawn = [Image.fromarray(noise.integers(0, 256, (16, 24, 3), dtype=np.uint8)) for _ in range(4)]
    drawn[0].save(
        files / f"{number}.webp", save_all=True, append_images=drawn[1:], duration=250, lossless=True
    )
    drawn[0].save(files / f"{number}-0.png")
    drawn[1].resize((32, 16)).save(files / f"{number}-1.png")
    tone = 9_000 * np.sin(np.arange(4_000) * (0.1 + 0.05 * number))
    with wave.open(str(files / f"{number}.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(tone.astype("<i2").tobytes())
    return [
        {"id": f"video {number}", "question": f"What moves in {number}?", "video": f"{number}.webp"},
        {"id": f"audio {number}", "question": f"What sounds {number}?", "audio": f"{number}.wav"},
        {
            "id": f"images {number}",
            "question": f"Which one is {number}?",
            "images": [f"{number}-0.png", f"{number}-1.png"],
        },
    ]


@pytest.fixture(scope="module")
def expected(run: Path) -> dict[str, Any]:
    return json.loads((run / "expected.json").read_text())


def ask(run: Path, query: str) -> list[tuple[Any, ...]]:
    with connect(run / "store") as sql:
        return sql.execute(query).fetchall()


def test_the_states_are_those_of_transformers_own_pass(run, expected):
    found = ask(
        run,
        "SELECT sample_id, condition, block, vector FROM hidden_states "
        "WHERE position = 'last' AND intervention = '' AND condition IN ('query', 'image', 'blank') AND block < 3",
    )
    seen = {(sample, condition) for sample, condition, *_ in found}
    assert {(sample.split()[0], condition) for sample, condition in seen} >= {
        (kind, condition)
        for kind in ("video", "audio", "images")
        for condition in ("query", "image", "blank")
    }
    for sample, condition, block, vector in found:
        own = expected[f"{sample} {condition}"]["states"][block]
        assert np.allclose(vector, own, rtol=1e-4, atol=1e-4), (sample, condition, block)


def test_the_shift_is_what_white_images_white_frames_and_silence_do_to_the_states(run, expected):
    anchors = [
        name for (name,) in ask(run, "SELECT sample_id FROM samples WHERE split = 'anchor' ORDER BY ALL")
    ]
    assert [name.split()[0] for name in anchors] == ["audio", "images", "video"]
    shifts = ask(run, "SELECT block, vector FROM shifts WHERE level = 'dataset' AND block < 3")
    assert shifts
    for block, vector in shifts:
        moved = [
            np.subtract(
                *(expected[f"{name} {condition}"]["states"][block] for condition in ("blank", "query"))
            )
            for name in anchors
        ]
        assert np.allclose(vector, np.mean(moved, axis=0), rtol=1e-3, atol=1e-4)


def test_every_target_has_an_answer_under_every_arm_and_plain_ones_are_transformers_own(run, expected):
    rows = ask(run, "SELECT sample_id, condition, intervention, answer FROM responses")
    arms = {(condition, arm) for _, condition, arm, _ in rows}
    assert arms == {(one, "") for one in SPEC["conditions"]} | {("image", "CMRM"), ("image", "CMRM own")}
    samples = {sample for sample, *_ in rows}
    assert {sample.split()[0] for sample in samples} == {"video", "audio", "images"}
    assert len(rows) == len(arms) * len(samples)
    plain = {(sample, condition): answer for sample, condition, arm, answer in rows if not arm}
    for (sample, condition), answer in plain.items():
        if condition != "gap":
            assert answer == expected[f"{sample} {condition}"]["answer"]
    ((judged,),) = ask(run, "SELECT count(*) FROM judgements WHERE judge = 'refusal'")
    assert judged == len(rows)
    assert ask(run, "FROM quarantine") == []


def test_a_counterpart_takes_the_tokens_of_its_medium_and_a_gap_those_of_text(run):
    counts = ask(
        run,
        "SELECT sample_id, any_value(prompt_tokens) FILTER (condition = 'image'), "
        "any_value(prompt_tokens) FILTER (condition = 'blank'), any_value(prompt_tokens) FILTER (condition = 'query'), "
        "any_value(prompt_tokens) FILTER (condition = 'gap') FROM responses GROUP BY ALL",
    )
    for _, own, blank, text, gap in counts:
        assert own == blank > text == gap


def test_states_over_the_tokens_of_media_are_stored_beside_those_of_the_last_token(run):
    ((samples, blocks),) = ask(
        run,
        "SELECT count(DISTINCT sample_id), count(DISTINCT block) FROM hidden_states "
        "WHERE position = 'mean_image' AND condition = 'image' AND intervention = ''",
    )
    assert (samples, blocks) == (6, 4)


def test_the_report_tells_what_was_shown_and_that_no_square_stood_in_for_it(run):
    (page,) = (run / "store" / "reports").rglob("report.html")
    (text,) = (run / "store" / "reports").rglob("report.md")
    assert "Every sample has several images, video or sound" in text.read_text()
    html = page.read_text()
    assert html.count("Every sample has several images, video or sound") == 2
    packed = [gzip.decompress(base64.b64decode(one)) for one in re.findall(r'"(H4sI[A-Za-z0-9+/=]+)"', html)]
    texts = b"".join(packed).decode()
    for said in ("[video of 1.0 s, 4 frames shown]", "[sound of 0.2 s]", "[2 images]"):
        assert said in texts


def test_noise_of_a_stated_contrast_is_refused_before_a_model_is_loaded(run, tmp_path):
    fields = {**SPEC, "conditions": ["query", "image", "noise"], "images": {"size": 32, "noise_contrast": 40}}
    spec = run / "noise.yaml"
    spec.write_text(yaml.safe_dump(fields))
    with pytest.raises(
        UserError, match=r"images\.noise_contrast: .* which 6 samples of datasets\.moving show"
    ):
        run_plainly(spec, tmp_path / "store")
    assert [one.name for one in (tmp_path / "store" / "manifests").iterdir()] == ["ingest"]
