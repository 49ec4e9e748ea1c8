"""What the site makes of the pages; `make docs` itself builds it, strictly, and is no test."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from tests.docs.test_links import ROOT


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """The hooks, with a stand-in for MkDocs, which the tests' environment does not have."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("mkdocs", "mkdocs.structure", "mkdocs.structure.files"):
            stand_in = ModuleType(name)
            stand_in.File = stand_in.Files = SimpleNamespace  # type: ignore[attr-defined]
            patch.setitem(sys.modules, name, stand_in)
        from docs import site_hooks

        return site_hooks


def test_links_to_files_of_the_repository_lead_to_the_pages_that_show_them(hooks):
    def lead(markdown: str, uri: str) -> str:
        return hooks.on_page_markdown(markdown, page=SimpleNamespace(file=SimpleNamespace(src_uri=uri)))

    assert lead("[words](../README.md#words)", "architecture.md") == "[words](index.md#words)"
    assert lead("[why](docs/decisions/runs.md#workers)", "index.md") == "[why](decisions/runs.md#workers)"
    assert lead("[hook](../../flows/run.py)", "decisions/runs.md") == "[hook](../source/flows/run.py.md)"
    assert lead("[gone](../flows/gone.py), [a](https://a.example/b)", "sql.md") == (
        "[gone](../flows/gone.py), [a](https://a.example/b)"
    )


def test_lists_are_indented_and_parted_as_python_markdown_wants_them(hooks):
    given = "Text:\n* one\n  goes on\n\n  | a |\n  |---|\n\n  more\n* two\n  1. inner\n     goes on\n\nText"
    assert hooks.indent_lists(given) == (
        "Text:\n\n* one\n    goes on\n\n    | a |\n    |---|\n\n    more\n\n* two\n    1. inner\n"
        "        goes on\n\nText"
    )


def test_code_in_fences_stays_as_it_is(hooks):
    given = "```yaml\n* no item\n  - none either\n```"
    assert hooks.indent_lists(given) == given


def test_an_escaped_pipe_in_code_of_a_table_is_shown_without_its_backslash(hooks):
    assert hooks.indent_lists(r"| `a\|b` | c\|d |") == r"| `a|b` | c\|d |"


def test_nothing_of_the_site_is_fetched_from_elsewhere():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").replace("!!python/object/apply:", "")
    settings = yaml.safe_load(text.replace("pymdownx.slugs.slugify {", "{"))
    assert settings["theme"]["font"] is False
    assert settings["strict"] is True
    assert "http" not in text


def test_examples_of_docstrings_are_fenced_up_to_the_next_blank_line(monkeypatch):
    # griffe comes with the site's own packages.
    stand_in = ModuleType("griffe")
    stand_in.Extension = stand_in.Object = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "griffe", stand_in)
    from docs.fenced_examples import FencedExamples

    text = "One line.\n\n>>> import cmrm\n>>> [True]\n[True]\n\nMore."
    documented = SimpleNamespace(docstring=SimpleNamespace(value=text))
    FencedExamples().on_object(obj=documented)
    assert documented.docstring.value == (
        "One line.\n\n```pycon\n>>> import cmrm\n>>> [True]\n[True]\n```\n\nMore."
    )
    FencedExamples().on_object(obj=SimpleNamespace(docstring=None))
