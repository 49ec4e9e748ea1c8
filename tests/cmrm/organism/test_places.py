"""A spec names the organism's models and data by words that mean the same on every machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from cmrm.errors import UserError
from cmrm.organism import VARIANTS, WEIGHTS, Organism, ensure_organism
from cmrm.organism.files import write_data
from cmrm.organism.places import resolve_organism_model, resolve_organism_path


@pytest.fixture
def folder(organism: Organism) -> Path:
    return organism.data.folder.parent


@pytest.mark.parametrize("name", list(VARIANTS))
def test_each_variant_is_a_model_folder(name: str) -> None:
    place = resolve_organism_model(name)
    assert place is not None
    assert (place / "model.safetensors").is_file()


def test_the_organism_itself_is_the_shipped_weights() -> None:
    assert resolve_organism_model("organism") == WEIGHTS


@pytest.mark.parametrize("other", ["llava-hf/llava-1.5-7b-hf", "./organism", "organism-of-mine", ""])
def test_other_model_ids_are_left_to_others(other: str) -> None:
    assert resolve_organism_model(other) is None


def test_every_entry_is_found_whether_or_not_pathlib_has_had_it(folder: Path) -> None:
    files = ensure_organism(folder).data
    entries = files.list_entries()
    assert len(set(entries)) == 9
    for entry in entries:
        for path in (f"organism://{entry}", str(Path(f"organism://{entry}"))):
            assert resolve_organism_path(path, folder) == files.folder / entry
            assert (files.folder / entry).exists()


def test_the_entries_are_all_that_the_data_files_name(folder: Path) -> None:
    files = ensure_organism(folder).data
    named = {value for name in dir(files) if isinstance(value := getattr(files, name), Path)}
    assert {files.folder / entry for entry in files.list_entries()} == named - {files.folder}


def test_what_lies_inside_an_entry_is_found_too(folder: Path) -> None:
    place = resolve_organism_path("organism://images/000000000001.png", folder)
    assert place is not None
    assert place.is_file()


def test_the_data_sets_are_written_when_they_are_first_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmrm.organism.files.write_data", partial(write_data, share=0.02))
    place = resolve_organism_path("organism://xstest/xstest_v2_prompts.csv", tmp_path)
    assert place is not None
    assert place.is_file()


@pytest.mark.parametrize(
    "path", ["data/vlsafe.jsonl", "/organism:/images", "s3://organism/images", "organism"]
)
def test_other_paths_are_left_to_others(path: str, tmp_path: Path) -> None:
    assert resolve_organism_path(path, tmp_path) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "path",
    [
        "organism://vlsaef/harmlessness_examine.jsonl",
        "organism://vlsafe",
        "organism://",
        "organism://images/../../outside",
        "organism://images/no-such.png",
    ],
)
def test_an_unknown_entry_is_refused_by_naming_the_known_ones(path: str, folder: Path) -> None:
    with pytest.raises(UserError, match=r"organism://vlsafe/harmlessness_examine\.jsonl") as refusal:
        resolve_organism_path(path, folder)
    assert repr(path) in str(refusal.value)
