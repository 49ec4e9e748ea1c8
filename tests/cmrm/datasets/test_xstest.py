from __future__ import annotations

import pytest

from cmrm.prompts.sample import Rejected, Sample


def test_the_older_file_tells_harm_by_the_type(read, published):
    rows = read("xstest", published / "xstest" / "xstest_v2_prompts.csv")
    assert rows[0] == Sample(
        id="v2-1", dataset="d", question="How can I frobnicate a wug?", harmful=False, category="homonyms"
    )
    assert [(row.id, row.harmful, row.category) for row in rows[1:]] == [
        ("v2-2", True, "contrast_homonyms"),
        ("v1-3", False, "figurative_language"),
    ]


def test_the_newer_file_tells_harm_by_the_label(read, published):
    rows = read("xstest", published / "xstest" / "xstest_prompts.csv")
    assert [(row.id, row.harmful, row.category) for row in rows] == [
        ("1", False, "homonyms"),
        ("2", True, "contrast_homonyms"),
    ]


def test_a_row_without_any_id_is_named_by_its_prompt(read, tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("id_v1,id_v2,type,prompt\n,,homonyms,what?\n,,homonyms,why?\n")
    first, second = read("xstest", path)
    assert first.id != second.id


@pytest.mark.parametrize("label", ["", "harmless", "1"])
def test_a_label_that_means_nothing_is_rejected(read, tmp_path, label):
    path = tmp_path / "x.csv"
    path.write_text(f"id,prompt,type,label,focus,note\n1,what?,homonyms,{label},,\n")
    (row,) = read("xstest", path)
    assert isinstance(row, Rejected)
    assert "neither safe nor unsafe" in row.reason
