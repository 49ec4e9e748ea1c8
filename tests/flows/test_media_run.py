"""A run on rows with two images each: what the model was shown, Δ of counterparts of both, arms, verdicts, report."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import load_dataset
from inspect_ai.log import list_eval_logs, read_eval_log
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from flows.cli import main
from storage.sql.database import connect
from tests.flows.shared_runs import run_plainly
from tests.text_models import save_text_model, take_language_model

SIZES = ((40, 24), (30, 50))
ROWS = 6


@pytest.fixture(scope="module")
def run(llava_folder: Path, tmp_path_factory, write_short_spec: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("media")
    spec = write_short_spec(
        folder / "data",
        llava_folder,
        conditions=["query", "image", "blank"],
        interventions=[
            {"name": "CMRM", "alpha": 1.0},
            {"name": "CMRM own", "level": "sample", "alpha": 1.0},
        ],
    )
    images = folder / "data" / "pairs"
    images.mkdir()
    noise = np.random.default_rng(0)
    rows = []
    for number in range(ROWS):
        names = [f"{number}-{side}.png" for side in range(2)]
        for name, (width, height) in zip(names, SIZES, strict=True):
            pixels = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / name)
        rows.append({"id": str(number), "question": f"Which one is {number}?", "images": names})
    (folder / "data" / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    fields = yaml.safe_load(spec.read_text())
    pairs = {"format": "jsonl", "path": "pairs.jsonl", "images": "pairs", "harmful": True}
    fields |= {"datasets": {"pairs": pairs}, "anchors": {"from": {"pairs": 0.5}}}
    fields |= {"conditions": [*fields["conditions"], "caption"], "captions": {"max_new_tokens": 4}}
    text = save_text_model(folder / "text", take_language_model(llava_folder, moved=0.05), llava_folder)
    fields["model"]["backbone"] = {"id": str(text), "name": "text"}
    spec.write_text(yaml.safe_dump(fields))
    run_plainly(spec, folder / "store")
    return folder


def read_states(folder: Path, condition: str) -> dict[tuple[str, int], np.ndarray]:
    with connect(folder / "store") as sql:
        rows = sql.execute(
            "SELECT sample_id, block, vector FROM hidden_states JOIN samples USING (dataset, sample_id) "
            "WHERE condition = ? AND split = 'anchor' AND model NOT LIKE 'text%'",
            [condition],
        ).fetchall()
    return {(sample, block): np.asarray(vector, dtype=np.float64) for sample, block, vector in rows}


def test_the_stored_states_are_those_of_transformers_own_pass_on_both_images(run, llava_folder):
    model = LlavaForConditionalGeneration.from_pretrained(llava_folder).eval()
    processor = AutoProcessor.from_pretrained(llava_folder)
    states = {condition: read_states(run, condition) for condition in ("query", "blank")}
    sample = min(one for one, _ in states["blank"])
    text = {"type": "text", "text": f"Which one is {sample}?"}
    shown = {"query": [], "blank": [Image.new("RGB", size, "white") for size in SIZES]}
    compared = 0
    for condition, images in shown.items():
        turns = [{"role": "user", "content": [*({"type": "image"} for _ in images), text]}]
        prompt = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        inputs = processor(text=prompt, images=images or None, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            hidden = model.model(**inputs, output_hidden_states=True).hidden_states
        for (name, block), vector in states[condition].items():
            # The last one is after the final norm.
            if name == sample and block + 1 < len(hidden) - 1:
                expected = hidden[block + 1][0, -1].double().numpy()
                assert np.allclose(vector, expected, atol=1e-4), (condition, block)
                compared += 1
    assert compared >= 2


def test_the_shift_is_the_mean_difference_that_the_two_counterparts_make(run):
    blank, query = read_states(run, "blank"), read_states(run, "query")
    assert blank.keys() == query.keys()
    with connect(run / "store") as sql:
        stored = sql.execute("SELECT block, vector FROM shifts WHERE level = 'dataset'").fetchall()
    assert stored
    for block, vector in stored:
        own = [blank[key] - query[key] for key in blank if key[1] == block]
        assert len(own) == ROWS // 2
        assert np.allclose(np.asarray(vector), np.mean(own, axis=0), atol=1e-3)
        assert np.linalg.norm(vector) > 0


def test_every_arm_has_an_answer_on_both_images_and_a_verdict(run):
    with connect(run / "store") as sql:
        answers = sql.execute(
            "SELECT r.condition, r.intervention, count(*), min(r.prompt_tokens), max(r.prompt_tokens) "
            "FROM responses r WHERE model NOT LIKE 'text%' GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        judged = sql.execute(
            "SELECT count(*) FROM judgements WHERE judge = 'refusal' AND model NOT LIKE 'text%'"
        ).fetchone()
        media = sql.execute("SELECT DISTINCT len(media), media[1].kind, image FROM samples").fetchall()
        lost = sql.execute("SELECT count(*) FROM quarantine").fetchone()
    arms = {(condition, intervention) for condition, intervention, *_ in answers}
    assert arms == {
        ("query", ""),
        ("caption", ""),
        ("blank", ""),
        *(("image", name) for name in ("", "CMRM", "CMRM own")),
    }
    assert {count for _, _, count, _, _ in answers} == {ROWS - ROWS // 2}
    tokens = {condition: (low, high) for condition, _, _, low, high in answers}
    assert tokens["blank"] == tokens["image"] > tokens["query"]
    assert judged == (len(arms) * (ROWS - ROWS // 2),)
    assert media == [(2, "image", None)]
    assert lost == (0,)


def test_a_caption_is_the_models_own_words_on_both_images(run, llava_folder):
    model = LlavaForConditionalGeneration.from_pretrained(llava_folder).eval()
    processor = AutoProcessor.from_pretrained(llava_folder)
    with connect(run / "store") as sql:
        captions = sql.execute("SELECT sample_id, prompt, caption FROM captions").fetchall()
    assert len(captions) == ROWS - ROWS // 2
    for sample, asked, caption in captions:
        images = [Image.open(run / "data" / "pairs" / f"{sample}-{side}.png") for side in range(2)]
        turns = [
            {
                "role": "user",
                "content": [*({"type": "image"} for _ in images), {"type": "text", "text": asked}],
            }
        ]
        prompt = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        inputs = processor(text=prompt, images=images, return_tensors="pt", add_special_tokens=False)
        made = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert caption == processor.tokenizer.decode(made, skip_special_tokens=True).strip()


def test_the_backbone_answers_as_text_what_the_model_was_asked_with_two_images(run):
    with connect(run / "store") as sql:
        rows = sql.execute(
            "SELECT model LIKE 'text%', condition, sample_id, prompt_tokens FROM responses "
            "WHERE condition IN ('query', 'caption')"
        ).fetchall()
    sides = {side: {tuple(row) for own, *row in rows if own is side} for side in (True, False)}
    assert sides[True] == sides[False]
    assert len(sides[True]) == 2 * (ROWS - ROWS // 2)


def test_the_report_shows_the_first_image_of_each_sample_and_says_how_many_there_are(run):
    (page,) = (run / "store" / "reports").rglob("report.html")
    html = page.read_text()
    # WebP files in base64, and the packed texts.
    thumbnails = set(re.findall(r'"(UklGR[A-Za-z0-9+/=]+)"', html))
    assert len(thumbnails) == ROWS - ROWS // 2
    sizes = {Image.open(io.BytesIO(base64.b64decode(one))).size for one in thumbnails}
    assert sizes == {SIZES[0]}
    packed = [gzip.decompress(base64.b64decode(one)) for one in re.findall(r'"(H4sI[A-Za-z0-9+/=]+)"', html)]
    texts = b"".join(packed).decode()
    assert texts.count("[2 images]\\nWhich one is") == ROWS - ROWS // 2


def test_inspect_logs_have_both_images_and_leave_out_what_stood_in_for_them(run, tmp_path):
    main(["export", "latest", "--to", "inspect", "--store", str(run / "store"), "-o", str(tmp_path / "logs")])
    found = {}
    for info in list_eval_logs(str(tmp_path / "logs")):
        for sample in read_eval_log(info, resolve_attachments=True).samples or []:
            content = sample.input[-1].content
            parts = [] if isinstance(content, str) else [one.image for one in content if one.type == "image"]
            found.setdefault((sample.metadata["condition"], sample.metadata["shown_image"]), []).append(
                (sample.id, parts)
            )
    assert set(found) == {("query", "none"), ("caption", "none"), ("blank", "left out"), ("image", "own")}
    for name, parts in found["image", "own"]:
        files = [run / "data" / "pairs" / f"{name}-{side}.png" for side in range(2)]
        assert [base64.b64decode(one.partition(",")[2]) for one in parts] == [
            file.read_bytes() for file in files
        ]
    assert not any(parts for _, parts in found["blank", "left out"])


def test_a_data_set_for_the_hub_names_the_files_of_each_sample(run, tmp_path):
    to = ["--to", "dataset", "--include-harmful", "-o", str(tmp_path / "hub")]
    main(["export", "latest", "--store", str(run / "store"), *to])
    rows = load_dataset(
        "parquet",
        data_dir=str(tmp_path / "hub" / "samples"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert {row["sample_id"]: row["media"] for row in rows} == {
        str(number): [f"image:{number}-{side}.png" for side in range(2)] for number in range(ROWS)
    }
    assert all(row["image"] is None for row in rows)
