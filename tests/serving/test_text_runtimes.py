"""MLX, CTranslate2, ONNX Runtime, OpenVINO and peft with an exported shift, by the programs of docs/serving.md."""

from __future__ import annotations

import json

import pytest

from tests.serving.conftest import QUESTIONS
from tests.serving.engines import run_block

ASKED = '"what is in the picture ?"'


@pytest.fixture(scope="module")
def graph(texts, model):
    """The steered language model as an ONNX file."""
    run_block("write_onnx.py", "runtimes", model.parent)


@pytest.mark.parametrize("title", ["ask_mlx.py", "ask_ctranslate2.py"])
def test_an_engine_that_reads_the_folder_answers_with_transformers_tokens(title, expected, model):
    for name, question in (*(("steered", one) for one in QUESTIONS), ("plain", QUESTIONS[0])):
        said = run_block(title, "runtimes", model.parent, replaced=replace(name, question))
        assert read_tokens(said) == expected[name][question], (name, question)


@pytest.mark.usefixtures("graph")
@pytest.mark.parametrize("title", ["ask_onnxruntime.py", "ask_openvino.py"])
def test_an_engine_that_reads_the_graph_answers_with_transformers_tokens(title, expected, model):
    for question in QUESTIONS:
        said = run_block(title, "runtimes", model.parent, replaced=replace("steered", question))
        assert read_tokens(said) == expected["steered"][question], question


def test_peft_with_the_exported_lora_answers_with_the_checkpoints_tokens(export, expected, model):
    export("peft", "steered-lora", "--blocks", "last")
    said = run_block("ask_peft.py", "transformers", model.parent)
    assert read_tokens(said) == expected["steered"][QUESTIONS[0]] != expected["plain"][QUESTIONS[0]]


def read_tokens(said):
    return json.loads(said[: said.index("]") + 1])


def replace(name, question):
    return {'"steered-': f'"{name}-', ASKED: json.dumps(question)}
