"""A model id becomes an immutable identity before anything is keyed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from cmrm.errors import ModelChangedError, ModelUnavailableError, UserError
from cmrm.models.revision import find_revision, resolve_model


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


def test_which_revision_a_model_has_is_found_without_checking_it(llava_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(llava_folder, tmp_path / "copy"))
    assert find_revision(str(copy)) == resolve_model(str(copy)).revision
    (copy / "config.json").write_text("{}")
    assert find_revision(str(copy)) != resolve_model(str(llava_folder)).revision


class Interrupted:
    """A folder's digest, with something done to the folder once its first file has been read."""

    def __init__(self, patch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
        self._digest = hashlib.file_digest
        self._change: Callable[[], object] | None = change
        patch.setattr("cmrm.models.pinning.hashlib.file_digest", self)

    def __call__(self, file: BinaryIO, name: str) -> object:
        found = self._digest(file, name)
        if self._change is not None:
            self._change()
            self._change = None
        return found


def test_a_folder_that_is_written_while_it_is_read_has_no_revision(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(llava_folder, tmp_path / "copy"))
    Interrupted(monkeypatch, lambda: (copy / "config.json").write_text("{}"))
    with pytest.raises(ModelChangedError, match=r"was changed while it was read"):
        find_revision(str(copy))
    Interrupted(monkeypatch, (copy / "tokenizer.json").unlink)
    with pytest.raises(ModelChangedError, match=r"was changed while it was read"):
        resolve_model(str(copy))


def test_a_folder_that_vanishes_while_it_is_read_is_said_to_be_gone(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(llava_folder, tmp_path / "copy"))
    Interrupted(monkeypatch, lambda: copy.rename(tmp_path / "elsewhere"))
    with pytest.raises(ModelUnavailableError, match=r"disappeared while it was read"):
        find_revision(str(copy))


@pytest.mark.parametrize("base", ["llava-hf/llava-1.5-7b-hf", None])
def test_the_error_of_an_adapter_given_as_the_model_names_its_field(tmp_path: Path, base: str | None) -> None:
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        resolve_model(str(folder))
    said = str(caught.value)
    assert said.startswith(f"model.id: {str(folder)!r} is a LoRA adapter, not a model.")
    assert f"model.adapter: {{id: {folder}}}" in said
    assert ("(llava-hf/llava-1.5-7b-hf)" in said) == (base is not None)
