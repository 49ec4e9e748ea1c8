"""The canary: what it is written as, how an answer reads, and files that are none."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from cmrm.errors import UserError
from cmrm.export.canary import (
    Canary,
    CanaryPrompt,
    Expected,
    are_told_apart,
    judge_readings,
    read_canary,
    read_text_start,
    write_canary,
)
from cmrm.export.local import restore_prompt
from cmrm.export.served import Served, read_served


def make_prompt(steered="i am sorry", unsteered="sure, take", **changes):
    return CanaryPrompt(
        **{
            "messages": ({"role": "user", "content": "hi"},),
            "token_ids": (1, 5, 7),
            "max_tokens": 8,
            "differ_at": 0,
            "margin": 0.5,
            "steered": Expected(tokens=(3, 4), text=f"{steered}, no.", start=steered),
            "unsteered": Expected(tokens=(9,), text=f"{unsteered} it.", start=unsteered),
            **changes,
        }
    )


def make_canary(*prompts):
    return Canary(
        format="checkpoint",
        model="mine",
        revision="sha256:1",
        dtype="float32",
        shift="sha256:2",
        alpha=0.5,
        blocks=(1, 2),
        acts_at="every_position",
        prompts=prompts or (make_prompt(),),
    )


def test_a_canary_reads_back_as_it_was_written_and_its_messages_are_a_request(tmp_path):
    canary = make_canary()
    path = write_canary(canary, tmp_path)
    assert read_canary(path) == canary
    content = json.loads(path.read_text())
    assert (content["kind"], content["schema"]) == ("cmrm-canary", 1)
    assert content["prompts"][0]["messages"] == [{"role": "user", "content": "hi"}]
    assert content["prompts"][0]["steered"] == {
        "tokens": [3, 4],
        "text": "i am sorry, no.",
        "start": "i am sorry",
    }


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("i am sorry, no.", "steered"),
        ("  i am sorry but otherwise", "steered"),
        ("sure, take it.", "unsteered"),
        ("\nsure, take", "unsteered"),
        ("i am", "neither"),
        ("Sure, take", "neither"),
        ("", "neither"),
    ],
)
def test_an_answer_reads_by_what_it_begins_with(text, reading):
    assert read_text_start(text, make_prompt()) == reading


def test_all_prompts_must_agree():
    assert judge_readings(["steered", "steered"]) == "steered"
    assert judge_readings(["unsteered", "unsteered"]) == "unsteered"
    assert judge_readings(["steered", "unsteered"]) == "neither"
    assert judge_readings(["steered", "neither"]) == "neither"


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ("i", "sure", True),
        ("i", "i am", False),
        ("i am", "i", False),
        ("", "sure", False),
        (" i", "i", False),
    ],
)
def test_beginnings_of_which_one_begins_the_other_tell_nothing_apart(one, other, apart):
    assert are_told_apart(one, other) is apart


def drop(name):
    return lambda content: content["prompts"][0].pop(name)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content.update(kind="other"), "is no canary"),
        (lambda content: content.update(schema=2), "has schema 2 and this release reads 1"),
        (lambda content: content.update(prompts=[]), "0 prompts"),
        (lambda content: content.update(prompts=content["prompts"] * 1000), "1000 prompts"),
        (lambda content: content.update(alpha="a lot"), "another shape"),
        (lambda content: content["prompts"][0].update(max_tokens=10**9), "max_tokens 1000000000"),
        (lambda content: content["prompts"][0]["steered"].update(start="sure"), "begin alike"),
        (drop("steered"), "steered"),
        (drop("messages"), "messages"),
    ],
)
def test_a_file_that_is_no_canary_is_refused_in_one_line(tmp_path, change, reason):
    path = write_canary(make_canary(), tmp_path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=re.escape(reason)) as caught:
        read_canary(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[", "[1]", "[" * 100_000, "\x00"])
def test_a_damaged_file_is_refused(tmp_path, text):
    path = tmp_path / "canary.json"
    path.write_text(text)
    with pytest.raises(UserError):
        read_canary(path)


@pytest.mark.parametrize(
    "url",
    [
        "https://elsewhere.example/cat.png",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "data:image/gif;base64,R0lGODlhAQABAAAAACw=",
        "data:image/png;base64,é",
    ],
)
def test_an_image_that_is_not_a_png_inside_the_file_is_refused(url):
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what?"}]
    with pytest.raises(UserError, match="an image cannot be read"):
        restore_prompt(make_prompt(messages=({"role": "user", "content": parts},)))


@pytest.mark.parametrize("content", [[], 7, [{"type": "text", "text": "a"}], None])
def test_messages_of_another_shape_are_refused(content):
    with pytest.raises(UserError, match="canary"):
        restore_prompt(make_prompt(messages=({"role": "user", "content": content},)))


def test_a_number_that_is_infinite_is_another_shape(tmp_path):
    content = json.loads(write_canary(make_canary(), tmp_path).read_text())
    content["blocks"] = [float("inf")]
    (tmp_path / "inf.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="another shape"):
        read_canary(tmp_path / "inf.json")


@pytest.mark.parametrize(
    ("tokens", "text", "reading"),
    [
        ((3, 4, 6), "anything", "steered"),
        ((3, 5, 6), "i am sorry", "unsteered"),
        # Another tokenizer's ids, or another model's.
        ((8, 8), "i am sorry", "neither"),
        # The server leaves out the token that ends an answer.
        ((3,), "i am sorry", "steered"),
        ((), "sure, take", "unsteered"),
        (None, "sure, take it", "unsteered"),
    ],
)
def test_token_ids_decide_as_far_as_both_answers_go_together_and_the_text_where_there_are_none(
    tokens, text, reading
):
    unsteered = Expected(tokens=(3, 5, 2), text="sure, take it.", start="sure, take")
    prompt = replace(make_prompt(), differ_at=1, unsteered=unsteered)
    assert read_served(Served(text=text, tokens=tokens), prompt) == reading


@pytest.mark.parametrize("differ_at", [-1, 0])
def test_a_canary_whose_answers_have_the_same_tokens_where_they_are_to_part_is_refused(tmp_path, differ_at):
    content = make_canary(make_prompt(differ_at=differ_at)).to_json()
    content["prompts"][0]["unsteered"]["tokens"] = [3, 4, 5]
    (tmp_path / "canary.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="the same tokens up to"):
        read_canary(tmp_path / "canary.json")
