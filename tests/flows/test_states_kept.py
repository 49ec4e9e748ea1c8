"""States are stored as the model computed them: no component is too large, and no bit is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from storage.sql.database import connect
from tests.flows.shared_runs import run_plainly

# Far beyond float16's 65,504.
LARGE = 1e6


@pytest.fixture
def large_model(llava_folder: Path, tmp_path: Path) -> Path:
    """The random LLaVA, with one component of its residual stream pushed to a million by block 1."""

    folder = Path(shutil.copytree(llava_folder, tmp_path / "large"))
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "layers.1.mlp.down_proj.weight" in name)
    weights[name][3] *= LARGE / weights[name][3].norm()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def read_states(folder: Path, dtype: torch.dtype, question: str) -> np.ndarray:
    """The last prompt token's states after every block, float64 [blocks, hidden], by transformers alone."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
    processor = AutoProcessor.from_pretrained(folder)
    turn = [{"role": "user", "content": [{"type": "text", "text": question}]}]
    inputs = processor.apply_chat_template(
        turn, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    states: dict[int, torch.Tensor] = {}
    for number, block in enumerate(model.get_decoder().layers):
        block.register_forward_hook(
            lambda _module, _args, output, number=number: states.update(
                {number: (output[0] if isinstance(output, tuple) else output)[0, -1]}
            )
        )
    with torch.inference_mode():
        model(**inputs)
    return np.stack([states[number].double().numpy() for number in sorted(states)])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_states_of_a_million_are_kept_and_make_a_shift(
    large_model: Path, tmp_path: Path, write_spec: Callable[..., Path], dtype: str
) -> None:
    spec = write_spec(
        tmp_path / "data",
        large_model,
        datasets={"own": {"format": "jsonl", "path": "own.jsonl", "images": "images"}},
        anchors={"from": {"own": 0.4}},
        conditions=["query"],
        target_states=["query"],
        interventions=[{"name": "CMRM", "alpha": 1.0, "blocks": [0]}],
        batch_size=1,
    )
    spec.write_text(spec.read_text().replace("dtype: float32", f"dtype: {dtype}"))
    run_plainly(spec, tmp_path / "store")
    with connect(tmp_path / "store") as sql:
        assert sql.sql("SELECT count(*) FROM quarantine").fetchall() == [(0,)]
        rows = sql.sql(
            "SELECT h.sample_id, question, vector FROM hidden_states h JOIN samples USING (dataset, sample_id) "
            "WHERE condition = 'query' AND intervention = '' AND split = 'target' ORDER BY ALL LIMIT 8"
        )
        question = rows.fetchall()[0][1]
        stored = np.array(
            sql.execute(
                "SELECT vector FROM hidden_states h JOIN samples USING (dataset, sample_id) WHERE question = ? AND "
                "condition = 'query' AND intervention = '' ORDER BY block",
                [question],
            )
            .fetchnumpy()["vector"]
            .tolist()
        )
        deltas = sql.sql("SELECT vector FROM shifts ORDER BY block").fetchnumpy()["vector"].tolist()
    expected = read_states(large_model, getattr(torch, dtype), question)
    assert np.abs(expected).max() > 65_504
    if dtype == "bfloat16":
        # Sixteen bits are all that there is of such a number.
        bits = np.asarray(stored, np.float32).view(np.uint32)
        assert not np.any(bits & 0xFFFF)
    tolerance = 2e-2 if dtype == "bfloat16" else 1e-5
    np.testing.assert_allclose(stored, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())
    assert np.isfinite(np.array(deltas)).all()
