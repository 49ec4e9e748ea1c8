"""States at image tokens and at the first answer token equal those of one plain pass a prompt, in every family."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance.builders import BUILDERS
from tests.conformance.examining import Examined
from tests.conformance.positions import OF_IMAGE

EXAMINED = ("positions",)
# Its image is not in the prompt: cross-attention blocks attend to it.
ABSENT = "mllama"
# Tiles, each with tokens of its own: of an image of 32 pixels the tiny ones have more than one.
TILED = {
    "idefics3": 20,
    "ovis2": 20,
    "smolvlm": 20,
    "llava_next": 24,
    "llava_next_video": 24,
    "llava_onevision": 24,
    "perception_lm": 20,
}


@pytest.mark.parametrize("family", sorted(BUILDERS))
def test_states_of_batches_are_those_of_a_plain_pass(examine: Callable[[str], Examined], family: str) -> None:
    found = examine("positions")[family]
    assert len(found["apart"]) == 9
    for kind, apart in found["apart"].items():
        shown = () if kind.startswith("text") or family == ABSENT else OF_IMAGE
        assert set(apart) == {"last", "first_answer", *shown}
        assert max(apart.values()) < 1e-5, (kind, apart)
    assert found["image_tokens"] < found["tokens"]
    assert found["image_tokens"] == TILED.get(family, found["image_tokens"])
    assert (found["image_tokens"] == 0) == (family == ABSENT)
