"""Video, sound, and images beside them are read, steered and replaced as one image is, one type of each mechanism."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cmrm.models.family_table import FAMILIES
from tests.conformance.examining import Examined
from tests.conformance.media import MEDIA, SEARCHED

EXAMINED = ("media",)
# They print the time of each frame.
TIMED = {"glm4v", "qwen3_vl", "smolvlm"}
# Text behind a slow video would get positions of its frames.
OVERLAPPING = {"qwen2_5_vl"}


@pytest.fixture(scope="module")
def compared(examine: Callable[[str], Examined]) -> Examined:
    """What `compare_media` returns for each type."""
    return examine("media")


@pytest.mark.parametrize("family", sorted(MEDIA))
def test_blank_media_have_the_tokens_of_their_own_and_the_time_of_each_frame(
    compared: Examined, family: str
) -> None:
    found = compared[family]
    assert found["blank_ids"] == found["ids"]
    assert (found["slower_ids"] != found["ids"]) == (family in TIMED)


@pytest.mark.parametrize("family", sorted(MEDIA))
def test_tokens_of_media_are_those_whose_embedding_is_not_of_the_table(
    compared: Examined, family: str
) -> None:
    found = compared[family]
    assert found["marked"] == found["replaced"]
    assert any(found["marked"])


@pytest.mark.parametrize("family", sorted(MEDIA))
def test_steered_answers_equal_those_of_a_loop_without_a_cache(compared: Examined, family: str) -> None:
    for scope, (answer, naive) in compared[family]["answers"].items():
        assert answer == naive, scope


@pytest.mark.parametrize("family", sorted(MEDIA))
def test_controls_take_the_place_of_all_media(compared: Examined, family: str) -> None:
    found = compared[family]
    shown, text, gap, marks, filler = (
        found["shown"],
        found["text"],
        *(found["controls"][one] for one in ("gap", "marks", "filler")),
    )
    kept = [place for place, medium in enumerate(found["marked"]) if not medium]
    assert gap["ids"] == text["ids"]
    # The end of both prompts, at the positions of the image prompt.
    assert gap["positions"][-5:] == shown["positions"][-5:]
    assert np.diff(gap["positions"]).min() == 1
    assert marks["ids"] == [shown["ids"][place] for place in kept]
    assert marks["positions"] == [shown["positions"][place] for place in kept]
    assert [filler["ids"][place] for place in kept] == marks["ids"]
    assert len(filler["ids"]) == len(shown["ids"])


@pytest.mark.parametrize("family", sorted(MEDIA))
def test_a_video_whose_time_reaches_into_the_text_is_refused(compared: Examined, family: str) -> None:
    refused = compared[family]["long"]
    assert set(refused) == ({"0"} if family in OVERLAPPING else set())
    assert all("gives the text behind it positions of its frames" in reason for reason in refused.values())


@pytest.mark.parametrize("family", sorted(SEARCHED))
def test_what_a_row_lists_is_what_passes_where_all_forms_are_tried(compared: Examined, family: str) -> None:
    assert tuple(compared[family]["forms"]) == FAMILIES[family].media
