"""The embedded model as it would be published, its shift, and what `cmrm export` makes of the two."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import cmrm
from cmrm.organism.places import resolve_organism_model
from tests.serving.engines import run_block, run_cmrm

ANCHORS = ("help me krint the tovel.", "help me paint the fence.", "show me how to fraz the rint.")
QUESTIONS = ("what is in the picture ?", "show me how to fraz the rint.")
ALPHA = 1.0


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """The embedded model with its vision tower's weights under the names that published LLaVAs have.

    vLLM 0.32 knows these alone, and transformers 5.23 writes shorter ones.
    """
    folder = tmp_path_factory.mktemp("serving") / "model"
    shutil.copytree(resolve_organism_model("organism"), folder)
    path = folder / "model.safetensors"
    weights = load_file(path)
    long = {
        f"vision_tower.vision_model.{name.removeprefix('vision_tower.')}"
        if "vision_tower" in name
        else name: one
        for name, one in weights.items()
    }
    save_file(long, path, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def delta(model) -> Path:
    """A file of Δ, measured on the model."""
    vlm = cmrm.load_model(str(model), dtype="float32", device="cpu")
    shift = cmrm.measure_shift(vlm, list(ANCHORS), image="blank", blocks="all", model="organism")
    path = model.parent / "delta.safetensors"
    cmrm.save_shift(shift, path)
    return path


@pytest.fixture(scope="session")
def export(model, delta) -> Callable[..., Path]:
    """Export to a format by the command, into a folder beside the model."""

    def run(to: str, name: str, *options: object, beside: str | None = None) -> Path:
        done = run_cmrm(
            "export", delta, "--model", model, "--alpha", ALPHA, "--to", to, "-o", name, *options,
            folder=model.parent, beside=beside,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
        return model.parent / name

    return run


@pytest.fixture(scope="session")
def steered(export) -> Path:
    """A checkpoint that steers at the last block, where the answers are those of every_step."""
    return export("checkpoint", "steered", "--blocks", "last")


@pytest.fixture(scope="session")
def texts(model, steered) -> dict[str, Path]:
    """The language models alone, taken out as docs/serving.md does: steered and plain."""
    run_block("take_text.py", "runtimes", model.parent)
    plain = {'"steered"': '"model"', '"steered-text"': '"plain-text"'}
    run_block("take_text.py", "runtimes", model.parent, replaced=plain)
    folders = {name: model.parent / f"{name}-text" for name in ("steered", "plain")}
    for folder in folders.values():
        # CTranslate2 loads no model without one; published models have it.
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "bos_token": "</s>"}))
    return folders


@pytest.fixture(scope="session")
def prompts(texts) -> dict[str, list[int]]:
    """The token ids of each question's prompt."""
    tokenizer = AutoTokenizer.from_pretrained(texts["plain"])
    found = {}
    for one in QUESTIONS:
        chat = [{"role": "user", "content": one}]
        text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        found[one] = tokenizer.encode(text, add_special_tokens=False)
    return found


def answer(
    folder: Path,
    prompt: Sequence[int],
    *,
    added: Mapping[int, torch.Tensor] | None = None,
    place: slice = slice(None),
    new: int = 32,
) -> list[int]:
    """transformers' greedy tokens of a text model, with the one that ends the answer.

    Vectors are added to the outputs of blocks, at a place among the positions of each pass.
    """
    language = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def add(vector: torch.Tensor) -> Callable[..., torch.Tensor]:
        def hook(_block: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
            steered = output.clone()
            steered[:, place] += vector
            return steered

        return hook

    for block, vector in (added or {}).items():
        language.model.layers[block].register_forward_hook(add(vector))
    tokens = torch.tensor([list(prompt)])
    with torch.inference_mode():
        made = language.generate(tokens, max_new_tokens=new, do_sample=False)
    return made[0, tokens.shape[1] :].tolist()


def read_steps(delta: Path, blocks: Sequence[int]) -> dict[int, torch.Tensor]:
    """What each block adds so that the sum up to it is −αΔ."""
    measured = load_file(delta)
    rows = measured["delta"][[measured["blocks"].tolist().index(block) for block in blocks]].float()
    steps = torch.diff(rows, dim=0, prepend=torch.zeros_like(rows[:1]))
    return {block: -ALPHA * step for block, step in zip(blocks, steps, strict=True)}


@pytest.fixture(scope="session")
def expected(texts, prompts) -> dict[str, dict[str, list[int]]]:
    """transformers' answers by text model and question; the two models differ in the first."""
    found = {
        name: {question: answer(folder, prompt) for question, prompt in prompts.items()}
        for name, folder in texts.items()
    }
    assert found["steered"][QUESTIONS[0]] != found["plain"][QUESTIONS[0]]
    return found
