"""Controls stand where an image stands: positions as the model itself counts them, through every path of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import pytest

from cmrm.models.family_table import FAMILIES
from tests.conformance.examining import Examined

EXAMINED = ("controls",)
# Its image is not in the prompt: cross-attention blocks attend to it.
ABSENT = "mllama"
SPACED = ("idefics3", "smolvlm")
PLACED = sorted(set(FAMILIES) - {ABSENT})


@pytest.fixture(scope="module")
def examined(examine: Callable[[str], Examined]) -> Examined:
    """What each family's examination came to."""
    return examine("controls")


def _read_text(row: Mapping[str, Any], image_token: int) -> tuple[list[int], list[int]]:
    """The tokens of text of an image prompt, and the positions that the model gives them, the same on each axis."""
    kept = [place for place, token in enumerate(row["ids"]) if token != image_token]
    axes = [[axis[place] for place in kept] for axis in row["positions"]]
    assert all(axis == axes[0] for axis in axes)
    return [row["ids"][place] for place in kept], axes[0]


def _count_same(one: Sequence[int], other: Sequence[int]) -> int:
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))


@pytest.mark.parametrize("family", PLACED)
def test_marks_are_the_image_prompt_without_its_image_tokens_at_the_models_own_positions(
    examined: Mapping[str, Any], family: str
) -> None:
    found = examined[family]
    for shown, row in zip(found["image"], found["marks"]["rows"], strict=True):
        ids, positions = _read_text(shown, found["image_token"])
        assert row["ids"] == ids
        assert all(axis == positions for axis in row["positions"])
        kept = [place for place, token in enumerate(shown["ids"]) if token != found["image_token"]]
        for name, types in row["types"].items():
            assert types == [shown["types"][name][place] for place in kept]


@pytest.mark.parametrize("family", PLACED)
def test_a_gap_moves_the_text_exactly_as_the_image_does(examined: Mapping[str, Any], family: str) -> None:
    found = examined[family]
    for shown, alone, row in zip(found["image"], found["text"], found["gap"]["rows"], strict=True):
        _, positions = _read_text(shown, found["image_token"])
        assert row["ids"] == alone["ids"]
        before = _count_same(shown["ids"], alone["ids"])
        behind = _count_same(shown["ids"][::-1], alone["ids"][before:][::-1])
        last = len(alone["ids"]) - behind
        for axis in row["positions"]:
            assert axis[:before] == positions[:before]
            assert axis[last:] == positions[len(positions) - behind :]
            # Idefics' template has a space before the text, which it leaves out behind an image.
            assert axis[before:last] == list(range(axis[last] - (last - before), axis[last]))
        assert last - before == (1 if family in SPACED else 0)


@pytest.mark.parametrize("family", PLACED)
def test_filler_has_as_many_tokens_as_the_image_prompt_and_none_of_the_image(
    examined: Mapping[str, Any], family: str
) -> None:
    found = examined[family]
    for shown, row in zip(found["image"], found["filler"]["rows"], strict=True):
        pairs = list(zip(row["ids"], shown["ids"], strict=True))
        assert all(own == other for own, other in pairs if other != found["image_token"])
        assert found["image_token"] not in row["ids"]
        assert all(axis == list(range(axis[0], axis[0] + len(axis))) for axis in row["positions"])


@pytest.mark.parametrize("family", PLACED)
@pytest.mark.parametrize("control", ["gap", "marks", "filler"])
def test_states_and_answers_depend_neither_on_padding_nor_on_the_path(
    examined: Mapping[str, Any], family: str, control: str
) -> None:
    found = examined[family][control]
    assert found["difference"] < 1e-3
    assert found["answers"] == found["own_answers"]


def test_a_family_whose_image_takes_no_positions_refuses_in_one_line(examined: Mapping[str, Any]) -> None:
    (line,) = examined[ABSENT]["refused"].splitlines()
    assert "cross-attention" in line
    assert line.startswith("condition gap: mllama")
