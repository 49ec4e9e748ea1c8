"""`cmrm export --to paper`: figures as wide as columns with their fonts inside, tables, and sources that exist."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cmrm.datasets.formats import find_format, list_formats
from flows.cli import main
from flows.paper.bibtex import write_bibtex
from flows.paper.references import METHOD, list_references
from storage.store import Store
from tasks.report import all_figures
from tasks.report import stage as report
from tasks.report.figure import Figure
from tasks.report.summary import Summary, read_summary
from tests.made_up import EVIL, make_outcomes, make_summary
from tests.made_up_run import make_up

ROOT = Path(__file__).parents[3]
RUN = "20260101-000000-abcdef"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SPEC = {
    "datasets": {
        "vlsafe": {"format": "vlsafe", "path": "organism://vlsafe"},
        "seen": {"format": "pope", "path": "coco.json"},
        "bench": {
            "format": "llava-bench-coco",
            "path": "/home/me/.cache/cmrm/organism-data-v3/bench/qa90.jsonl",
        },
        "mine": {"format": "jsonl", "path": "mine.jsonl"},
    }
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes of a made-up run."""
    store = Store.create(tmp_path_factory.mktemp("store"))
    with pytest.MonkeyPatch.context() as patch:
        # The report's own figures and numbers are tested elsewhere.
        patch.setattr(report, "find_groups", lambda *_: {})
        patch.setattr(Figure, "save", lambda _: {"svg": b"<svg/>", "png": b"", "csv": b""})
        made = make_up(store, samples=8, strengths=(1.0,))
    summary = read_summary(store, made.report)
    store.write_run(
        RUN,
        {
            "status": "finished",
            "keys": made.keys,
            "models": [dict(one) for one in summary.models],
            "spec": SPEC,
        },
    )
    output = tmp_path_factory.mktemp("paper") / "paper"
    with pytest.MonkeyPatch.context() as patch:
        # Embedding fonts takes a while: one figure of one panel will do, one of several, and two that are wide.
        for name in ("draw_changes", "draw_overhead"):
            patch.setattr(all_figures, name, lambda *_: [])
        main(["export", RUN, "--to", "paper", "--output", str(output), "--store", store.url])
    return output


def read_entries(text: str) -> dict[str, dict[str, str]]:
    """The entries of a bibliography by key, each with its type as `type`."""
    found = {}
    for kind, key, body in re.findall(r"@(\w+)\{([^,]+),\n(.*?)\n\}", text, flags=re.DOTALL):
        found[key] = {"type": kind, **dict(re.findall(r"^  (\w+) = \{(.*)\},$", body, flags=re.MULTILINE))}
    return found


def test_every_figure_is_there_at_the_widths_it_fits_and_as_numbers(folder: Path) -> None:
    files = {file.name for file in (folder / "figures").iterdir()}
    names = {name.removesuffix(".csv") for name in files if name.endswith(".csv")}
    assert {"rates", "states-1", "categories-1"} <= names
    for name in names:
        assert {f"{name}-2col.pdf", f"{name}-2col.svg"} <= files
    assert {"rates-1col.pdf", "rates-1col.svg", "states-1-1col.pdf"} <= files
    # Its rows of names leave a column no room.
    assert "categories-1-1col.pdf" not in files


@pytest.mark.parametrize(("width", "inches"), [("1col", 3.25), ("2col", 6.75)])
def test_a_pdf_has_the_width_of_the_column_and_truetype_fonts_inside(
    folder: Path, width: str, inches: float
) -> None:
    for file in (folder / "figures").glob(f"*-{width}.pdf"):
        data = file.read_bytes()
        (box,) = re.findall(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+) ?\]", data)
        assert float(box[0]) == pytest.approx(72 * inches)
        assert b"/CIDFontType2" in data
        assert b"/FontFile2" in data
        assert b"/Type3" not in data


def test_an_svg_needs_no_font_of_the_reader(folder: Path) -> None:
    for file in (folder / "figures").glob("*.svg"):
        tags = {one.tag.rpartition("}")[2] for one in ET.parse(file).iter()}
        assert "text" not in tags
        assert "path" in tags


def test_the_includes_name_files_that_are_there_and_captions_are_escaped(folder: Path) -> None:
    text = (folder / "figures.tex").read_text()
    shown = re.findall(r"\\includegraphics\{(.*)\}", text)
    assert len(shown) == len(list((folder / "figures").glob("*.csv"))) >= 3
    assert all((folder / name).is_file() for name in shown)
    assert "95 \\% Wilson" in text
    assert (folder / "tables" / "main.tex").is_file()


def test_references_are_what_the_run_used_and_no_more(folder: Path) -> None:
    entries = read_entries((folder / "references.bib").read_text())
    assert entries["pope"]["url"] == "https://github.com/AoiDragon/POPE"
    # Neither the embedded model's own data, nor a user's file, nor a model in a folder.
    assert not {"vlsafe", "llava-bench-coco", "jsonl", "mine", "llava-tiny"} & set(entries)
    assert {"cmrm", "duckdb", "prefect", "matplotlib", "liu-etal-2025-cmrm"} <= set(entries)
    assert entries["duckdb"]["author"] == "{DuckDB Foundation}"


def test_the_method_is_cited_as_the_citation_file_says() -> None:
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    assert METHOD.title == paper["title"]
    assert list(METHOD.authors) == [
        f"{one['family-names']}, {one['given-names']}" for one in paper["authors"]
    ]
    assert METHOD.fields == {
        "booktitle": paper["collection-title"],
        "year": str(paper["year"]),
        "pages": f"{paper['start']}-{paper['end']}",
        "publisher": paper["publisher"]["name"],
        "doi": paper["doi"],
        "url": paper["url"],
    }


def test_every_published_format_says_where_its_data_is_as_its_description_does() -> None:
    own = {"csv", "json", "jsonl", "parquet", "huggingface"}
    for name in set(list_formats()) - own:
        found = find_format(name)
        described = " ".join(
            (ROOT / "cmrm/datasets/formats" / f"{name.replace('-', '_')}.py")
            .read_text()
            .split('"""')[1]
            .split()
        )
        assert found.title.casefold() in described.casefold()
        assert re.sub(r"https://(github\.com/|huggingface\.co/datasets/)?", "", found.address) in described
    assert all(not find_format(name).title for name in own)


def cite(record: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, dict[str, str]]:
    summary = Summary.from_json({**make_summary(make_outcomes(samples=4)).to_json(), **changes})
    return read_entries(write_bibtex(list_references({"spec": {}, **(record or {})}, summary)))


def test_models_and_judges_of_the_hub_are_cited_with_their_revisions() -> None:
    judge = {"kind": "llama-guard", "verdicts": 1, "parse_errors": 0, "not_applicable": 0}
    none = {"prompt_tokens": None, "completion_tokens": None, "dollars": None}
    found = cite(
        models=[
            {"id": "llava-hf/llava-1.5-7b-hf", "name": "llava@1", "revision": COMMIT},
            {"id": "/data/own", "name": "own@1", "revision": "sha256:12"},
        ],
        judges=[
            {**judge, **none, "name": "guard", "model": "meta-llama/Llama-Guard-3-8B", "revision": COMMIT},
            {**judge, **none, "name": "evil", "model": f"a/b{EVIL}", "revision": COMMIT},
            # Names of an endpoint look like ids of the hub, and it may give them any revision.
            {**judge, **none, "name": "served", "model": "openai/gpt-4o", "revision": ""},
            {**judge, **none, "name": "dated", "model": "google/gemini", "revision": "2026-01-01"},
        ],
    )
    assert found["llava-hf-llava-1-5-7b-hf"]["note"] == f"Model, revision {COMMIT}"
    assert found["meta-llama-llama-guard-3-8b"]["url"] == "https://huggingface.co/meta-llama/Llama-Guard-3-8B"
    assert found["meta-llama-llama-guard-3-8b"]["author"] == "{meta-llama}"
    assert not [key for key in found if re.search("own|script|openai|google", key)]


def test_captioners_adapters_of_judges_and_data_sets_of_the_hub_are_cited() -> None:
    found = cite(
        {
            "captioner": {"id": "org/captions", "revision": COMMIT},
            "judges": [
                {"kind": "strongreject", "options": {"adapter": "org/lora", "adapter_revision": COMMIT}},
                {"kind": "refusal", "options": {}},
            ],
            "spec": {
                "datasets": {
                    "hub": {"format": "huggingface", "path": "org/data", "revision": "v_1"},
                    "latest": {"format": "huggingface", "path": "org/more", "revision": None},
                    "own": {"format": "huggingface", "path": "/data/own"},
                }
            },
        }
    )
    assert found["org-captions"]["note"] == found["org-lora"]["note"] == f"Model, revision {COMMIT}"
    assert found["org-data"]["url"] == "https://huggingface.co/datasets/org/data"
    assert found["org-data"]["note"] == r"Data set, revision v\_1"
    assert found["org-more"]["note"] == "Data set"
    assert not [key for key in found if "own" in key]


def test_versions_are_those_that_made_the_answers() -> None:
    found = cite(
        software={"torch": ["2.0.1", "2.1.0"], "torchvision": ["none"], "image backend": ["pillow 9"]}
    )
    assert found["torch"]["note"] == "Software, version 2.0.1 and 2.1.0"
    assert not {"torchvision", "image-backend"} & set(found)
