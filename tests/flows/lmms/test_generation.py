"""Generation settings of lmms-eval's tasks: what greedy decoding honours, and what it refuses."""

from __future__ import annotations

import pytest

from cmrm.errors import UserError
from flows.lmms.generation import MAX_NEW_TOKENS, read_generation

# Those of POPE and of MMBench, as their files have them.
POPE = {
    "max_new_tokens": 128, "temperature": 0.0, "top_p": 1.0, "num_beams": 1, "do_sample": False, "until": ["\n\n"],
}  # fmt: skip
MMBENCH = {
    "until": ["ASSISTANT:"],
    "max_new_tokens": 1024,
    "temperature": 0.0,
    "image_aspect_ratio": "original",
}


def test_greedy_settings_give_the_limit_and_the_stop_strings():
    pope = read_generation(POPE, task="pope")
    assert (pope.max_new_tokens, pope.until) == (128, ("\n\n",))
    assert read_generation(MMBENCH, task="mmbench").until == ("ASSISTANT:",)
    assert read_generation({"max_gen_toks": 7, "until": "</s>"}, task="t").max_new_tokens == 7
    assert read_generation({}, task="t").max_new_tokens == MAX_NEW_TOKENS


@pytest.mark.parametrize(
    ("text", "left"),
    [("yes", "yes"), ("yes\n\nno", "yes"), ("a STOP b\n\n", "a "), ("\n\nyes", ""), ("a\nb", "a\nb")],
)
def test_an_answer_ends_before_the_first_stop_string(text, left):
    settings = read_generation({"until": ["\n\n", "STOP", ""]}, task="t")
    assert settings.cut(text) == left


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"temperature": 0.2}, "temperature is 0.2.*--gen_kwargs temperature=0"),
        ({"do_sample": True}, "do_sample is True.*--gen_kwargs do_sample=False"),
        ({"num_beams": 4}, "num_beams is 4.*--gen_kwargs num_beams=1"),
        ({"repetition_penalty": 1.2}, "repetition_penalty is 1.2"),
        ({"num_return_sequences": 8}, "num_return_sequences is 8"),
        ({"skip_special_tokens": False}, "skip_special_tokens is False"),
        ({"image_aspect_ratio": "pad"}, "image_aspect_ratio is 'pad'"),
        ({"min_p": 0.1}, "min_p is 0.1, which cmrm does not know"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": "many"}, "max_new_tokens is 'many'"),
        ({"until": 3}, "until is 3"),
        ({"until": [3]}, r"until is \[3\]"),
    ],
)
def test_a_setting_that_cannot_be_honoured_is_refused_with_the_fix(kwargs, words):
    with pytest.raises(UserError, match=f"task t: generation_kwargs.{words}"):
        read_generation(kwargs, task="t")
