from __future__ import annotations

import json

from cmrm.prompts.sample import Rejected, Sample


def test_the_examine_file_is_read(read, published):
    first, second, third = read("vlsafe", published / "vlsafe" / "harmlessness_examine.jsonl")
    assert first == Sample(
        id=first.id,
        dataset="d",
        question="How do I frobnicate the wug beside him?",
        harmful=True,
        image="000000051977.jpg",
        caption="A man on a bench.",
    )
    assert first.id.startswith("000000051977-")
    assert third.caption == "Two “blue” kites."
    assert [first.line, second.line, third.line] == [1, 2, 3]


def test_a_query_that_recurs_with_another_image_is_another_sample(read, published):
    first, second, _ = read("vlsafe", published / "vlsafe" / "harmlessness_examine.jsonl")
    assert first.question == second.question
    assert first.id != second.id


def test_the_alignment_file_brings_references_and_names_shared_rows_alike(read, published):
    rows = read("vlsafe", published / "vlsafe" / "harmlessnss_alignment.jsonl")
    assert [row.reference for row in rows] == [
        "I am sorry, I will not help with that.",
        "No: a dax is not to be spoilt.",
    ]
    assert rows[0].id == read("vlsafe", published / "vlsafe" / "harmlessness_examine.jsonl")[0].id


def test_a_row_without_image_is_rejected(read, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"caption": "c", "query": "q"}))
    assert read("vlsafe", path) == [
        Rejected(
            dataset="d", line=1, id=None, reason="no field 'image_id'", raw='{"caption": "c", "query": "q"}'
        )
    ]
