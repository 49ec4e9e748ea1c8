"""llama-server with an exported control vector over the plain model, and with the bias in the model's own file."""

from __future__ import annotations

import shlex
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.serving.conftest import answer, read_steps
from tests.serving.engines import ask, run_python, serve_llama

NEW = 16
BLOCKS = (4, 5, 6, 7)
WRITER = Path(__file__).with_name("write_gguf.py")


@pytest.fixture(scope="module")
def files(texts, model):
    """The language models as GGUF files."""
    for folder in texts.values():
        run_python(
            "runtimes", f"import runpy, sys; sys.argv[1:] = [{str(folder)!r}]\n"
            f"runpy.run_path({str(WRITER)!r}, run_name='__main__')", model.parent,
        )  # fmt: skip
    return {name: folder / "model.gguf" for name, folder in texts.items()}


@contextmanager
def answering(file, prompts, *flags):
    """llama-server's greedy tokens of each prompt, asked by token ids, with the server still there."""
    with serve_llama(file, file.parent / "server.log", *flags) as url:
        made = [
            ask(
                url.removesuffix("/v1"),
                "completion",
                {"prompt": prompt, "n_predict": NEW, "temperature": 0, "return_tokens": True},
            )
            for prompt in prompts.values()
        ]
        yield url, [one["tokens"] for one in made]


def answer_all(folder, prompts, **options):
    return [answer(folder, one, new=NEW, **options) for one in prompts.values()]


def read_flags(card):
    """The flags of the card's own command, from --control-vector on."""
    _, found, rest = card.partition("--control-vector ")
    return shlex.split(found + rest.partition("\n```")[0])


def test_a_control_vector_steers_llama_server_as_hooks_at_every_position_do(
    export, files, texts, delta, prompts
):
    folder = export("gguf", "vector", "--blocks", ",".join(map(str, BLOCKS)))
    expected = answer_all(texts["plain"], prompts, added=read_steps(delta, BLOCKS))
    plain = answer_all(texts["plain"], prompts)
    assert expected != plain
    flags = read_flags((folder / "README.md").read_text())
    assert flags[-3:] == ["--control-vector-layer-range", "4", "7"]
    flags[1] = str(folder / flags[1])
    for given, tokens in ((flags, expected), ((), plain)):
        with answering(files["plain"], prompts, *given) as (_, found):
            assert found == tokens


def test_llama_server_reads_the_bias_of_a_checkpoint_and_names_token_ids_in_log_probabilities(
    files, texts, prompts
):
    answers = {}
    for name, file in files.items():
        with answering(file, prompts) as (url, found):
            assert found == answer_all(texts[name], prompts)
            # Its tokenizer knows no text, so that no chat can be asked; log probabilities are written alike.
            body = {
                "prompt": next(iter(prompts.values())),
                "logprobs": 1,
                "max_tokens": NEW,
                "temperature": 0,
            }
            (choice,) = ask(url, "completions", body)["choices"]
            named = [one["id"] for one in choice["logprobs"]["content"]]
            assert named == found[0][: len(named)]
            assert len(named) >= len(found[0]) - 1
        answers[name] = found
    assert answers["steered"] != answers["plain"]
