"""`--model_args` as lmms-eval hands them over: numbers made of text, quotes kept, and the command line's own added."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmrm.errors import UserError
from flows.lmms.arguments import read_arguments


def test_arguments_name_the_arm():
    named = {"pretrained": "organism", "shift": "latest", "arm": '"CMRM dataset"', "alpha": 1}
    read = read_arguments({**named, "device": "cpu", "batch_size": 1})
    assert (read.wish.model, read.wish.shift, read.wish.arm) == ("organism", "latest", "CMRM dataset")
    assert (read.wish.alpha, read.wish.device) == (1.0, "cpu")
    assert (read.layout, read.unanswered) == ("as_asked", "refuse")


def test_a_file_of_delta_has_its_blocks_in_brackets_and_a_model_its_system_line():
    file = {"pretrained": "organism", "shift": "delta.safetensors", "alpha": 0.5}
    assert read_arguments({**file, "blocks": "[4,5]"}).wish.blocks == (4, 5)
    assert read_arguments({**file, "blocks": 7}).wish.blocks == (7,)
    assert read_arguments({**file, "blocks": "all"}).wish.blocks == "all"
    assert read_arguments({"pretrained": 7, "system": "be brief."}).wish.system == "be brief."
    assert (
        read_arguments({"pretrained": "m", "spec": "~/s.yaml", "arm": "a"}).wish.spec
        == Path.home() / "s.yaml"
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "model_args.pretrained: no model is named; give a folder"),
        (
            {"pretrained": "m", "strength": 1},
            "model_args.strength: cmrm has no such argument; it has shift, spec",
        ),
        ({"pretrained": "m", "shift": "r", "alpha": "one"}, "model_args.alpha: 'one' is no number"),
        ({"pretrained": "m", "shift": "r", "alpha": True}, "model_args.alpha: True is no number"),
        ({"pretrained": "m", "alpha": 1}, "model_args.alpha: nothing is named that has arms"),
        (
            {"pretrained": "m", "shift": "d.safetensors", "alpha": 1, "blocks": "[4,x]"},
            "model_args.[4,x] is no list",
        ),
        ({"pretrained": "m", "layout": "any"}, "model_args.layout is 'any'; give as_asked or image_first"),
        ({"pretrained": "m", "unanswered": ""}, "model_args.unanswered is ''; give refuse or empty"),
    ],
)
def test_a_wrong_argument_is_named_with_the_fix(given, words):
    with pytest.raises(UserError) as caught:
        read_arguments(given)
    assert words in str(caught.value)
