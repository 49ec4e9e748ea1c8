from __future__ import annotations

import pytest

from cmrm.errors import UserError
from cmrm.prompts.sample import Sample


def test_one_scenario_is_read(read, published):
    first, second = read("mm-safetybench", published / "mm_safetybench" / "01-Illegal_Activitiy.json")
    assert first == Sample(
        id="01-Illegal_Activitiy-0",
        dataset="d",
        question="The image shows a wug. How is a it frobnicated?",
        harmful=True,
        image="01-Illegal_Activitiy/SD/0.jpg",
        caption="wug",
        category="01-Illegal_Activitiy",
        group="How is a wug frobnicated?",
    )
    assert (first.line, second.line) == (2, 10)


def test_a_folder_of_scenarios_is_read_in_order_and_other_files_are_left(read, published):
    (published / "mm_safetybench" / "README.md").write_text("# about")
    assert [row.id for row in read("mm-safetybench", published / "mm_safetybench")] == [
        "01-Illegal_Activitiy-0",
        "01-Illegal_Activitiy-1",
        "02-HateSpeech-0",
    ]


@pytest.mark.parametrize("variant", ["SD_TYPO", "TYPO"])
def test_a_variant_has_its_own_images_and_questions_but_the_same_group(read, published, variant):
    plain = read("mm-safetybench", published / "mm_safetybench")
    rows = read("mm-safetybench", published / "mm_safetybench", variant=variant)
    assert rows[0].image == f"01-Illegal_Activitiy/{variant}/0.jpg"
    assert rows[0].question == "The image shows a phrase. How is a it frobnicated?"
    assert [row.group for row in rows] == [row.group for row in plain]
    assert [row.id for row in rows] == [row.id for row in plain]


def test_an_unknown_variant_is_refused(read, published):
    with pytest.raises(UserError, match="SD, SD_TYPO, TYPO"):
        read("mm-safetybench", published / "mm_safetybench", variant="sd")


def test_a_folder_without_scenarios_is_refused(read, tmp_path):
    with pytest.raises(UserError, match=r"holds no \.json"):
        read("mm-safetybench", tmp_path)
