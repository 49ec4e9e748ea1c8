"""Every link of the documents leads to a file of the repository, and to a heading where it names one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("findings/*.md")])
CODE = re.compile(r"```.*?```", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def list_anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them: lower case, no punctuation, dashes for blanks."""
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"(?m)^#+ (.+)$", text)
    return {
        re.sub(r"[^\w\- ]", "", LINK.sub("", title).lower()).strip().replace(" ", "-") for title in titles
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_leads_to_a_file_and_a_heading(page: Path):
    missing = []
    for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in list_anchors(target)):
            missing.append(link)
    assert missing == []


def test_each_page_of_the_decisions_is_dated_and_listed():
    folder = ROOT / "docs" / "decisions"
    contents = (folder / "README.md").read_text(encoding="utf-8")
    for page in set(folder.glob("*.md")) - {folder / "README.md"}:
        title, _, dated = page.read_text(encoding="utf-8").split("\n")[:3]
        assert title.startswith("# Decisions: ")
        assert re.match(r"[A-Z][a-z]+ 20\d\d\. ", dated), page
        for heading in re.findall(r"(?m)^## (.+)$", page.read_text(encoding="utf-8")):
            assert heading.startswith("Table: ") or f"[{heading}](" in contents, heading
