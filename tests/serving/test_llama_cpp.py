"""llama.cpp with an exported control vector over the plain model, and with the bias in the model's own file."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.serving.conftest import ALPHA, QUESTIONS
from tests.serving.engines import run_python

NEW = 16
BLOCKS = (4, 5, 6, 7)
WRITER = Path(__file__).with_name("write_gguf.py")

# By the C API, since the binding's own calls know no control vectors; laid out as llama.cpp's own loader does.
PROGRAM = """
import ctypes, json, pathlib
import llama_cpp, numpy as np

asked = json.loads(pathlib.Path("asked.json").read_text())
llama = llama_cpp.Llama(asked["model"], n_ctx=128, n_threads=1, verbose=False)
if asked["vectors"]:
    blocks = {int(block): vector for block, vector in asked["vectors"].items()}
    width = len(next(iter(blocks.values())))
    flat = np.zeros((max(blocks), width), np.float32)
    for block, vector in blocks.items():
        flat[block - 1] = vector
    numbers = flat.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    assert llama_cpp.llama_set_adapter_cvec(llama.ctx, numbers, flat.size, width, *asked["range"]) == 0
answers = []
for tokens in asked["prompts"]:
    llama.reset()
    made = llama.generate(tokens, temp=0.0, top_k=1, repeat_penalty=1.0)
    answers.append([int(next(made)) for _ in range(asked["new"])])
print("ANSWERS", json.dumps(answers))
"""


@pytest.fixture(scope="module")
def files(texts, model):
    """The language models as GGUF files."""
    for folder in texts.values():
        run_python(
            "runtimes", f"import runpy, sys; sys.argv[1:] = [{str(folder)!r}]\n"
            f"runpy.run_path({str(WRITER)!r}, run_name='__main__')", model.parent,
        )  # fmt: skip
    return {name: folder / "model.gguf" for name, folder in texts.items()}


@pytest.fixture(scope="module")
def prompts(texts):
    tokenizer = AutoTokenizer.from_pretrained(texts["plain"])
    chats = [[{"role": "user", "content": one}] for one in QUESTIONS]
    texts = [tokenizer.apply_chat_template(one, add_generation_prompt=True, tokenize=False) for one in chats]
    return [tokenizer.encode(one, add_special_tokens=False) for one in texts]


def ask(file, prompts, *, vectors=None, span=(0, 0)):
    folder = file.parent
    asked = {"model": str(file), "vectors": vectors, "range": span, "prompts": prompts, "new": NEW}
    (folder / "asked.json").write_text(json.dumps(asked))
    return json.loads(run_python("llama", PROGRAM, folder).partition("ANSWERS")[2])


def answer(folder, prompts, added=None):
    """transformers' greedy tokens, with vectors added to the outputs of blocks at every position."""
    language = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for block, vector in (added or {}).items():
        language.model.layers[block].register_forward_hook(
            lambda _block, _args, output, vector=vector: output + vector
        )
    answers = []
    for tokens in prompts:
        made = torch.tensor([tokens])
        with torch.inference_mode():
            for _ in range(NEW):
                logits = language(made, use_cache=False).logits
                made = torch.cat([made, logits[:, -1:].argmax(-1)], dim=1)
        answers.append(made[0, len(tokens) :].tolist())
    return answers


def test_a_control_vector_steers_llama_cpp_as_hooks_at_every_position_do(
    export, files, texts, delta, prompts
):
    folder = export("gguf", "vector", "--blocks", ",".join(map(str, BLOCKS)))
    tensors = gguf.GGUFReader(folder / "control-vector.gguf").tensors
    vectors = {one.name.removeprefix("direction."): one.data.tolist() for one in tensors}
    measured = load_file(delta)
    rows = measured["delta"][[measured["blocks"].tolist().index(block) for block in BLOCKS]].float()
    # What a block subtracts so that the sum up to it is αΔ.
    steps = torch.diff(rows, dim=0, prepend=torch.zeros_like(rows[:1]))
    added = {block: -ALPHA * step for block, step in zip(BLOCKS, steps, strict=True)}
    expected = answer(texts["plain"], prompts, added)
    plain = answer(texts["plain"], prompts)
    assert expected != plain
    span = (BLOCKS[0], BLOCKS[-1])
    assert "--control-vector-layer-range 4 7" in (folder / "README.md").read_text()
    assert ask(files["plain"], prompts, vectors=vectors, span=span) == expected
    assert ask(files["plain"], prompts) == plain


def test_llama_cpp_reads_the_bias_of_a_checkpoint(files, texts, prompts):
    found = {name: ask(file, prompts) for name, file in files.items()}
    assert found == {name: answer(folder, prompts) for name, folder in texts.items()}
    assert found["steered"] != found["plain"]
