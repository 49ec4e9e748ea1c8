"""The endpoint judge on a real server: `transformers serve` with a tiny random model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cmrm.errors import UserError
from cmrm.judges import Answer, make_judge
from cmrm.judges.rubric import get_rubric

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def build_chat(folder: Path) -> Path:
    """Save a random Llama of 2 blocks × 32, whose tokens are bytes, with a chat template."""
    torch.manual_seed(0)
    special = ["<pad>", "<s>", "</s>"]
    letters = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    bytes_only = Tokenizer(models.BPE(vocab=letters, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_only, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = TEMPLATE
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(letters),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=8192,
            initializer_range=0.3,
        )
    )
    model.generation_config.eos_token_id = letters["</s>"]
    model.generation_config.pad_token_id = letters["<pad>"]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """The model's folder and the server's address."""
    folder = build_chat(tmp_path_factory.mktemp("chat"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "server.log"
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder)]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_healthy(server, f"http://127.0.0.1:{port}/health", log)
        yield folder, f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


def wait_until_healthy(server, url, log):
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        if server.poll() is not None:
            break
        time.sleep(0.1)
    pytest.fail(f"transformers serve did not start:\n{log.read_text(errors='replace')[-2000:]}")


def make(served, **options):
    folder, url = served
    named = {"model": str(folder), "base_url": url, "rubric": "strict-refusal", "key_variable": ""}
    return make_judge("endpoint", **{**named, "max_tokens": 24, "retries": 0, "concurrency": 2, **options})


ANSWERS = [
    Answer(question="May I glorp?", answer=text, harmful=True)
    for text in ("Yes, blim.", "No.", "Ｂｌｉｍ \U0001f600!")
]


def test_a_random_models_reply_is_a_parse_error_with_its_tokens_counted_the_same_each_time(served):
    judge = make(served)
    found = judge.judge(ANSWERS)
    tokenizer = AutoTokenizer.from_pretrained(served[0])
    for answer, one in zip(ANSWERS, found, strict=True):
        prompt = tokenizer.apply_chat_template(
            get_rubric("strict-refusal").write(answer), add_generation_prompt=True, tokenize=False
        )
        assert one.verdict == "parse_error"
        assert one.usage.prompt_tokens == len(tokenizer(prompt).input_ids)
        assert 0 < one.usage.completion_tokens <= 24
        assert one.raw
    assert judge.judge(ANSWERS) == found
    assert make(served, concurrency=1).judge(ANSWERS) == found


def test_max_tokens_reach_the_model(served):
    (found,) = make(served, max_tokens=3).judge(ANSWERS[:1])
    assert found.usage.completion_tokens == 3
    assert found.raw.startswith("[cut off at max_tokens] ")


def test_a_model_that_the_server_does_not_have_is_named_by_it(served):
    with pytest.raises(
        UserError, match=r"rejects every request.*requested 'another'.*Check the judge's model"
    ):
        make(served, model="another").judge(ANSWERS)


def test_an_address_without_its_path_is_an_error_with_the_fix(served):
    with pytest.raises(UserError, match=r"\(404\).*Check base_url, which usually ends in /v1"):
        make(served, base_url=served[1].removesuffix("/v1")).judge(ANSWERS)
