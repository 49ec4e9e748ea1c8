"""MLX, CTranslate2, ONNX Runtime, OpenVINO and peft with an exported shift, by the programs of docs/serving.md."""

from __future__ import annotations

import json

import pytest

from tests.serving.conftest import QUESTIONS, answer, read_steps
from tests.serving.engines import run_block, run_cmrm

BLOCKS = (4, 5, 6, 7)
ASKED = '"what is in the picture ?"'


@pytest.fixture(scope="module")
def graph(export):
    """The steered language model as a graph that steers several blocks."""
    chosen = ",".join(map(str, BLOCKS))
    return export("onnx", "steered-onnx", "--blocks", chosen, beside="runtimes")


@pytest.mark.parametrize("title", ["ask_mlx.py", "ask_ctranslate2.py"])
def test_an_engine_that_reads_the_folder_answers_with_transformers_tokens(title, expected, model):
    for name, question in (*(("steered", one) for one in QUESTIONS), ("plain", QUESTIONS[0])):
        said = run_block(title, "runtimes", model.parent, replaced=replace(name, question))
        assert read_tokens(said) == expected[name][question], (name, question)


@pytest.fixture(scope="module")
def hooked(texts, delta, prompts, expected):
    """transformers' answers by question, under plain hooks that act as scope every_step does."""
    added = read_steps(delta, BLOCKS)
    last = slice(-1, None)
    found = {one: answer(texts["plain"], prompt, added=added, place=last) for one, prompt in prompts.items()}
    assert found[QUESTIONS[0]] != expected["plain"][QUESTIONS[0]]
    return found


@pytest.mark.usefixtures("graph")
@pytest.mark.parametrize("title", ["ask_onnxruntime.py", "ask_openvino.py"])
def test_an_engine_that_reads_the_graph_answers_as_hooks_of_every_step_do(title, hooked, model):
    for question in QUESTIONS:
        said = run_block(title, "runtimes", model.parent, replaced={ASKED: json.dumps(question)})
        assert read_tokens(said) == hooked[question], question


def test_the_folder_of_a_graph_is_told_from_the_plain_model_by_token_ids(graph, model):
    for folder, status in ((graph, 0), (model, 1)):
        done = run_cmrm(
            "verify-serving",
            folder,
            "--canary",
            graph / "canary.json",
            folder=model.parent,
            beside="runtimes",
        )
        assert done.returncode == status, done.stdout + done.stderr


def test_peft_with_the_exported_lora_answers_with_the_checkpoints_tokens(export, expected, model):
    export("peft", "steered-lora", "--blocks", "last")
    said = run_block("ask_peft.py", "transformers", model.parent)
    assert read_tokens(said) == expected["steered"][QUESTIONS[0]] != expected["plain"][QUESTIONS[0]]


def read_tokens(said):
    return json.loads(said[: said.index("]") + 1])


def replace(name, question):
    return {'"steered-': f'"{name}-', ASKED: json.dumps(question)}
