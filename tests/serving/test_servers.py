"""Servers over HTTP, asked with images by `cmrm verify-serving`: one that steers, and those that dropped the shift."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.serving.engines import run_cmrm, serve_transformers, serve_vllm


def relabel(steered: Path, kind: str) -> Path:
    """A copy whose language model calls itself Mistral or Qwen2, and computes the same; the bias is in its files."""
    folder = steered.with_name(f"steered-{kind}")
    shutil.copytree(steered, folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["text_config"].update(
        model_type=kind, architectures=[{"mistral": "Mistral", "qwen2": "Qwen2"}[kind] + "ForCausalLM"],
        mlp_bias=True, sliding_window=None,
    )  # fmt: skip
    path.write_text(json.dumps(config))
    if kind == "qwen2":
        weights = load_file(folder / "model.safetensors")
        for name in [one for one in weights if "language_model" in one and "_proj.weight" in one]:
            # Qwen2 has these three; it has none in its MLP.
            if any(part in name for part in ("q_proj", "k_proj", "v_proj")):
                weights[name.replace("weight", "bias")] = torch.zeros(len(weights[name]))
            elif "gate_proj" in name or "up_proj" in name:
                del weights[name.replace("weight", "bias")]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def verify(target, steered, *options):
    """Ask by the canary of a steered folder, which has prompts with images."""
    canary = json.loads((steered / "canary.json").read_text())
    shown = [one for one in canary["prompts"] if "data:image/png" in json.dumps(one["messages"])]
    assert shown
    return run_cmrm(
        "verify-serving", target, "--canary", steered / "canary.json", *options, folder=steered.parent
    )


def test_vllm_serves_the_steered_model_and_is_told_from_the_plain_one(model, steered):
    for folder, status, word in ((steered, 0, "steered"), (model, 1, "unsteered")):
        with serve_vllm(folder, model.parent / f"vllm-{word}.log") as url:
            done = verify(url, steered)
        assert (done.returncode, word in done.stdout) == (status, True), done.stdout + done.stderr
        assert "Compared by token ids." in done.stdout


def test_vllm_with_the_plug_in_lens_steers_the_requests_that_bring_vectors_along_and_no_others(export, model):
    folder = export("vllm-lens", "lens", "--blocks", "5,6,7")
    with serve_vllm(model, model.parent / "vllm-lens.log", plug_in="lens") as url:
        asking = verify(url, folder, "--request-fields", folder / "request-fields.json")
        plain = verify(url, folder)
    for done, status in ((asking, 0), (plain, 1)):
        assert done.returncode == status, done.stdout + done.stderr
        assert "Compared by token ids." in done.stdout


def test_vllm_drops_the_bias_of_qwen2_and_the_canary_tells(steered):
    folder = relabel(steered, "qwen2")
    with serve_vllm(folder, steered.parent / "vllm-qwen2.log") as url:
        done = verify(url, steered)
    assert done.returncode == 1, done.stdout + done.stderr


@pytest.fixture(scope="module")
def mistral(steered):
    return relabel(steered, "mistral")


def test_a_bias_that_transformers_drops_is_caught_in_the_folder_and_on_its_server(steered, mistral):
    for folder, status in ((steered, 0), (mistral, 1)):
        done = verify(folder, steered)
        assert done.returncode == status, done.stdout + done.stderr
        with serve_transformers(folder, steered.parent / f"transformers-{folder.name}.log") as url:
            # It lists the models of the hub's cache, whatever it serves.
            done = verify(url, steered, "--served-model", folder)
        assert done.returncode == status, done.stdout + done.stderr
