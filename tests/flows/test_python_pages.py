"""The code of docs/python.md and docs/extend.md runs from top to bottom, and finds what the pages say."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib import invalidate_caches
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

import cmrm
from cmrm.judges import list_judges
from flows.report.document import Document, Section
from flows.report.writers.markdown import write_markdown
from flows.spec.sections import DatasetSpec
from storage.sql.macros import create_macros
from storage.store import Store
from tests.flows.shared_runs import run_plainly
from tests.made_up_store import commit_rows, fill, response

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(python|toml)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read_blocks(page: str) -> list[tuple[str, str, str]]:
    """Language, file name ('' for none) and text of each block of a page."""
    return BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a finished run's made-up store."""
    store = fill(Store.create(tmp_path / "cmrm-store"))
    key = commit_rows(
        store, "responses", [response("s0", "mine"), response("s1", "yours"), response("s2", "")]
    )
    shift = next(manifest.key for manifest in store.manifests("shift"))
    store.write_run("r3", {"status": "finished", "keys": [key, shift]})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, blocks: list[tuple[str, str, str]]) -> None:
    """Write the files of a page, and what pip makes of its package."""
    for _, name, text in blocks:
        if name:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    made = folder / "my_package-1.0.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    groups = project["entry-points"].items()
    lines = [
        line
        for group, entries in groups
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    (made / "entry_points.txt").write_text("\n".join([*lines, ""]))
    monkeypatch.syspath_prepend(str(folder))
    invalidate_caches()


def run_blocks(blocks: list[tuple[str, str, str]]) -> dict[str, Any]:
    """Run the blocks that are no files, in one namespace."""
    names: dict[str, Any] = {}
    for number, (language, name, text) in enumerate(blocks):
        if language == "python" and not name:
            exec(compile(text, f"block {number}", "exec"), names)
    return names


def test_the_python_page_runs_and_names_the_whole_api(folder: Path, capsys):
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    table = page.partition("## Load")[0]
    named = {word for words in re.findall(r"`([^`]+)`", table) for word in words.split(", ")}
    # What is only ever returned needs no row.
    assert set(cmrm.__all__) - named <= {"Answer", "Finding", "VisionLanguageModel"}
    names = run_blocks(read_blocks("python.md"))
    said = capsys.readouterr().out
    comments = re.findall(r"^print\(.*\)  # (.+)$", page, re.MULTILINE)
    assert len(comments) >= 3
    assert all(comment in said for comment in comments)
    assert len(names["answers"]) == 3
    assert "below 0" in said


def test_each_way_to_extend_it_works(folder: Path, monkeypatch):
    blocks = read_blocks("extend.md")
    install(folder, monkeypatch, blocks)
    try:
        assert "length" in list_judges()
        names = run_blocks(blocks)
        mine = 'mine: {format: wugs, path: wugs.jsonl, polite: "yes"}'
        assert f"In a spec: `{mine}`" in (DOCS / "extend.md").read_text()
        read = DatasetSpec.model_validate(yaml.safe_load(mine)["mine"])
        assert read.options() == {"polite": "yes"}
        # As a run's record keeps it.
        assert DatasetSpec.model_validate(read.model_dump(mode="json")) == read
        with pytest.raises(ValidationError, match="rude"):
            DatasetSpec.model_validate({"format": "wugs", "path": "wugs.jsonl", "rude": "yes"})
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
            del sys.modules[name]
    verdicts = cmrm.judge([names["sample"]] * 3, [names["plain"], names["defended"], names["steered"]])
    assert [one.verdict for one in verdicts] == ["unsafe", "safe", "safe"]
    assert not any(block._forward_hooks for block in names["vlm"].blocks)
    section = Section(name="models", title="Models", blocks=(names["table"],))
    text = write_markdown(Document(title="t", verdict=(), sections=(section,)))
    assert "organism@3beca0e90ce4" in text
    # The made-up shift is orthogonal from block to block.
    assert list(names["angles"].degrees) == pytest.approx([90.0] * 3)


def test_the_defence_of_the_page_is_an_arm_of_a_run(folder: Path, monkeypatch):
    """It stands in the table beside CMRM, and moved states by less than all of Δ, of which it subtracts a part."""
    install(folder, monkeypatch, read_blocks("extend.md"))
    (text,) = [
        one
        for one in re.findall(
            r"^```yaml\n(.*?)^```$", (DOCS / "extend.md").read_text(), re.MULTILINE | re.DOTALL
        )
        if "kind: along-refusal" in one
    ]
    spec = yaml.safe_load((DOCS.parent / "specs" / "organism-defences.yaml").read_text())
    spec |= yaml.safe_load(text) | {"conditions": ["image"], "judges": ["refusal"]}
    spec["datasets"] = {name: {**one, "limit": 10} for name, one in spec["datasets"].items()}
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    try:
        result = run_plainly(folder / "spec.yaml", folder / "store")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
            del sys.modules[name]
    assert result.summary.defences is not None
    rows = {row.name: (row.kind, row.plain, row.cmrm) for row in result.summary.defences.rows}
    assert rows["along refusal α=1"] == ("along-refusal", "Image", "CMRM α=1")
    moved = {
        one.content["intervention_name"]: one.provenance["steered_distances_since_resumed"]["7"]["moved"]
        for one in Store.open(folder / "store").manifests("generate")
        if one.content["intervention"]
    }
    assert 0 < moved["along refusal"] < moved["CMRM"]


def test_the_macro_of_the_page_is_one_of_the_kind_that_is_built(monkeypatch, folder: Path):
    (text,) = [
        text for language, name, text in read_blocks("extend.md") if "macro = Macro(" in text and not name
    ]
    names: dict[str, Any] = {}
    exec(text, names)
    monkeypatch.setattr(
        "storage.sql.macros.MACROS", (*sys.modules["storage.sql.macros"].MACROS, names["macro"])
    )
    assert "CREATE MACRO angle(a, b)" in create_macros()
    import storage

    with storage.open_store(folder / "cmrm-store") as store:
        (row,) = store.sql("SELECT angle([1.0, 0.0], [0.0, 2.0]) AS degrees").table.to_pylist()
    assert row["degrees"] == pytest.approx(90)


def test_a_section_that_is_added_stands_where_the_page_says():
    source = (DOCS.parent / "flows" / "report" / "sections.py").read_text(encoding="utf-8")
    assert "drafts: list[tuple[str, str, Iterable[Block | None]]] = [" in source
    assert '("shifts", "Shifts", [make_shift_table(summary.shifts)]),' in source
