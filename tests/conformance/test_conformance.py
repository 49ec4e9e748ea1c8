"""Every family passes every check that `cmrm doctor` runs on a user's own model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cmrm.doctor import CHECKS
from cmrm.models.family_table import FAMILIES
from tests.conformance.builders import BUILDERS
from tests.conformance.examining import Examined
from tests.conformance.page import GUIDE, PAGE, summarize_checks, write_guide, write_page

EXAMINED = ("checks", "derived", "traits", "odd", "corners")
# Their processors choose a size of the image's own shape.
SMART = {
    *("emu3", "ernie4_5_vl_moe", "exaone4_5", "glm46v", "glm4v", "glm4v_moe", "glm_ocr"),
    *("paddleocr_vl", "video_llama_3"),
    *("qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe"),
}
# From nothing to all.
SHARES = ("nothing", "text", "all")


@pytest.fixture(scope="module")
def checked(examine: Callable[[str], Examined]) -> Examined:
    """The findings of the checks on each family."""
    return examine("checks")


@pytest.fixture(scope="module")
def odd(examine: Callable[[str], Examined]) -> Examined:
    """What each family makes of odd images, by the image's title."""
    return examine("odd")


def test_every_family_of_the_table_is_examined(checked: Examined) -> None:
    assert set(BUILDERS) == set(FAMILIES) == set(checked)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_family_passes_all_checks(checked: Examined, family: str) -> None:
    findings = checked[family]
    assert [one["name"] for one in findings] == [check.name for check in CHECKS]
    assert {one["name"]: one["detail"] for one in findings if not one["passed"]} == {}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_row_derived_from_the_model_says_what_the_table_says(
    examine: Callable[[str], Examined], family: str
) -> None:
    row, derived = FAMILIES[family], dict(examine("derived")[family])
    derived.pop("two_sizes")
    if row.streams is not None:
        assert "fails the check “decoder blocks”" in derived["error"]
        assert "module 0 passes [4, 1," in derived["error"]
        return
    shares = derived.pop("shares", "")
    assert derived == {
        "error": None,
        "blocks": True,
        "image_token": True,
        "image_only_blocks": True,
        "positions": row.positions,
        "first_position": row.first_position,
        "tiles_together": row.tiles_together,
        # Whether a batch is taken at all, the checks say.
        "mixed_batches": row.mixed_batches or not row.batches,
    }
    # The most that could be shared: whether it can be is for the checks to say.
    assert SHARES.index(shares) >= SHARES.index(row.shares)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_images_of_two_sizes_have_in_a_batch_the_states_that_each_has_alone(
    examine: Callable[[str], Examined], family: str
) -> None:
    assert examine("derived")[family]["two_sizes"] is None


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_an_image_of_an_odd_size_is_read_or_refused_by_itself_and_costs_no_other_row(
    odd: Examined, family: str
) -> None:
    for shown in odd[family].values():
        assert shown["error"] is None
        assert set(shown["kept"]) | set(map(int, shown["refused"])) == {0, 1}
        assert 1 in shown["kept"]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_view_shows_each_part_of_an_image_in_its_place_and_colour(
    examine: Callable[[str], Examined], family: str
) -> None:
    tiles, *corners = examine("corners")[family]
    quarters = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    # A first tile that is not the whole image is its upper left part.
    whole = tiles == 1 or corners[1] != corners[0]
    expected = quarters if whole else quarters[:1] * 4
    # bfloat16 (Llama 4) has 8 bits.
    np.testing.assert_allclose(corners, expected, atol=2)


def test_strips_are_refused_by_the_types_whose_processors_do_with_their_own_words(
    odd: Examined,
) -> None:
    told = {name: found["640x2"]["refused"].get("0", "") for name, found in odd.items()}
    assert {
        name for name, reason in told.items() if "aspect ratio must be smaller than 200" in reason
    } == SMART
    assert {name for name, reason in told.items() if reason} == {*SMART, "lighton_ocr", "mistral3"}


def test_the_page_of_model_types_says_what_was_found(
    checked: Examined, examine: Callable[[str], Examined]
) -> None:
    assert PAGE.read_text(encoding="utf-8") == write_page(checked, examine("traits")), (
        "write it anew: python -m tests.conformance.page"
    )


def test_the_page_on_models_says_which_types_are_refused() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    assert text.count("* `vision-encoder-decoder`") + text.count(", `vision-encoder-decoder`") == 1
    assert text == write_guide(text), "write it anew: python -m tests.conformance.page"


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_exports_with_a_bias_at_down_proj_are_refused_where_it_is_not_what_a_block_adds(
    examine: Callable[[str], Examined], family: str
) -> None:
    found = examine("traits")[family]
    for kind in ("checkpoint", "peft"):
        assert found["exports"][kind] is not None or found["bias_adds"], found["exports"][kind]


def test_a_check_that_fails_or_is_not_used_is_named_by_its_number() -> None:
    findings = [{"name": check.name, "passed": True, "detail": "equal"} for check in CHECKS]
    assert summarize_checks(findings) == f"all {len(CHECKS)}"
    findings[3]["passed"] = False
    findings[8]["detail"] = "prefix sharing is off: it has windows"
    findings[20]["detail"] = "not used with this model: it counts"
    assert summarize_checks(findings) == f"{len(CHECKS) - 3} pass; fails 4; 9, 21 not used"
    assert (
        summarize_checks(findings[:-1]) == f"{len(CHECKS) - 4} pass; fails 4, {len(CHECKS)}; 9, 21 not used"
    )
