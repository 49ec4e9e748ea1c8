"""A model id becomes an immutable identity before anything is keyed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cmrm.errors import UserError
from cmrm.revision import resolve_model


def test_equal_folders_share_a_fingerprint_and_one_changed_byte_does_not(
    llava_folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(llava_folder, tmp_path / "copy"))
    first, second = resolve_model(str(llava_folder)), resolve_model(str(copy))
    assert first.fingerprint == second.fingerprint
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert resolve_model(str(copy)).fingerprint != first.fingerprint


@pytest.mark.parametrize("name", ["chat_template.jinja", "config.json", "tokenizer.json"])
def test_every_file_that_shapes_answers_is_part_of_the_fingerprint(
    llava_folder: Path, tmp_path: Path, name: str
) -> None:
    copy = Path(shutil.copytree(llava_folder, tmp_path / "copy"))
    (copy / name).write_text((copy / name).read_text() + " ")
    assert resolve_model(str(copy)).fingerprint != resolve_model(str(llava_folder)).fingerprint


def test_a_readme_beside_the_weights_changes_nothing(llava_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(llava_folder, tmp_path / "copy"))
    (copy / "README.md").write_text("a card")
    assert resolve_model(str(copy)).fingerprint == resolve_model(str(llava_folder)).fingerprint


def test_a_hub_id_is_resolved_from_the_cache_to_its_commit_without_network(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "a" * 40
    cache = tmp_path / "hub"
    snapshot = cache / "models--someone--llava" / "snapshots" / commit
    shutil.copytree(llava_folder, snapshot)
    refs = cache / "models--someone--llava" / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    identity = resolve_model("someone/llava")
    assert identity.revision == commit
    assert identity.fingerprint == f"hub:someone/llava@{commit}"
    assert identity.folder == snapshot


@pytest.mark.parametrize("model_id", ["./no-such-folder", "no-such-folder", "a/b/c"])
def test_a_path_that_is_not_there_is_no_hub_id(model_id: str) -> None:
    with pytest.raises(UserError, match=r"model\.id: no folder"):
        resolve_model(model_id)
