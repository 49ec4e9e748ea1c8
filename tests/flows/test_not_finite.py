"""Rows on which the model gives NaN or inf are quarantined with the block, and the run continues."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from flows.run import run_spec
from flows.spec.spec import read_spec
from storage.sql.database import connect
from tasks.report import stage as report


@pytest.mark.usefixtures("prefect_server")
def test_no_answer_is_made_of_numbers_that_are_not_finite(
    llava_folder: Path,
    tmp_path: Path,
    write_short_spec: Callable[[Path, Path], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(report, "find_groups", lambda *_: {})
    model = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    letters = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    weights = load_file(model / "model.safetensors")
    (name,) = (one for one in weights if one.endswith("embed_tokens.weight"))
    weights[name][letters["Z"]] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    spec = write_short_spec(tmp_path / "data", model)
    with (spec.parent / "own.jsonl").open("a") as file:
        for number in range(6):
            row = {"id": f"Z{number}", "question": f"which Zone is number {number} in?", "image": "0.png"}
            file.write(json.dumps(row) + "\n")

    run_spec(read_spec(spec), store=str(tmp_path / "store"), server=None)

    with connect(tmp_path / "store") as sql:
        targets = "SELECT sample_id FROM samples WHERE split = 'target'"
        broken = sql.sql(f"{targets} AND question LIKE '%Zone%'").fetchall()
        assert broken
        assert not sql.sql("FROM responses WHERE sample_id LIKE 'Z%'").fetchall()
        told = sql.sql("SELECT sample_id, reason FROM quarantine WHERE stage = 'generate'").fetchall()
        asked = sql.sql("SELECT count(*) FROM samples WHERE split = 'target'").fetchall()[0][0] * 3
        assert sql.sql("SELECT count(*) FROM responses").fetchall() == [(asked - len(told),)]
    # Asked in words, with the image, and steered.
    at_the_prompt = [sample for sample, reason in told if "block 0 is not finite at the prompt" in reason]
    assert sorted(at_the_prompt) == sorted(sample for (sample,) in broken * 3)
    # This model has written a Z of its own in some answers.
    rest = [reason for sample, reason in told if not sample.startswith("Z")]
    assert all("block 0 is not finite at generated token" in reason for reason in rest)
