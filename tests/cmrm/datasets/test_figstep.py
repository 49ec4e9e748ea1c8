from __future__ import annotations

from cmrm.datasets import split
from cmrm.prompts.sample import Sample


def test_it_is_read(read, published):
    rows = read("figstep", published / "figstep" / "safebench.csv")
    assert rows[0] == Sample(
        id="ForbidQI-1-1",
        dataset="d",
        question=rows[1].question,
        harmful=True,
        image="query_ForbidQI_1_1_6.png",
        caption="Steps to frobnicate a wug.",
        category="Illegal Activity",
        group="How does one frobnicate a wug?",
    )
    assert rows[0].question.startswith("The image shows a list numbered 1, 2, and 3")
    assert rows[2].image == "query_ForbidQI_10_50_6.png"


def test_what_no_two_rows_share_is_their_group(read, published):
    rows = read("figstep", published / "figstep" / "safebench.csv")
    assert len({row.question for row in rows}) == 1
    assert len({row.group for row in rows}) == 3
    anchors, targets = split(rows, fraction=0.0, seed=0)
    assert (anchors, targets) == ([], rows)
