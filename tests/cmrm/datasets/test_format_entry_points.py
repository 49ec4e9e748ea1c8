"""Formats of installed packages, found by their entry points."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmrm.datasets import find_format, list_formats, read_dataset
from cmrm.errors import UserError

MODULE = """
from cmrm.datasets.fields import get_text
from cmrm.datasets.formats import Format
from cmrm.datasets.rows import make_samples, read_objects
from cmrm.prompts.sample import Sample


def read_wugs(path, *, dataset, variant="all"):
    def make(record):
        number = str(record.line)
        question = get_text(record.fields, "wug") + (" (short)" if variant == "short" else "")
        return Sample(id=number, dataset=dataset, question=question, harmful=False, line=record.line)

    return make_samples(read_objects(path, dataset=dataset), make, dataset=dataset)


FORMAT = Format(read=read_wugs, harmful=False, options=frozenset(("variant",)))
NONE = "no format"
"""


@pytest.fixture
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip leaves of a package that has two formats, one of which is none."""
    (tmp_path / "wug_formats.py").write_text(MODULE)
    about = tmp_path / "wug_formats-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: wug-formats\nVersion: 1.0\n")
    lines = ["wugs = wug_formats:FORMAT", "none = wug_formats:NONE", "gone = wug_formats:GONE"]
    (about / "entry_points.txt").write_text("\n".join(["[cmrm.formats]", *lines, ""]))
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("_package")
def test_a_format_of_an_installed_package_reads_files_with_its_own_options(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"wug": "What is a wug?"}\n{"wag": ""}\n{"wug": "Why?"}\n')
    rows = list(read_dataset("wugs", path, dataset="d", variant="short"))
    assert [getattr(row, "question", None) for row in rows] == [
        "What is a wug? (short)",
        None,
        "Why? (short)",
    ]
    assert rows[1].reason == "no field 'wug'"
    assert "wugs" in list_formats()


@pytest.mark.usefixtures("_package")
@pytest.mark.parametrize(("name", "why"), [("none", "is no .*Format"), ("gone", "cannot be loaded: .*GONE")])
def test_an_entry_point_that_is_no_format_is_named(name, why):
    with pytest.raises(UserError, match=f"'{name}'.*wug_formats:.*{why}"):
        find_format(name)
