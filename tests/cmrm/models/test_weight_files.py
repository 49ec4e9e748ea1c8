"""Weights are read from the files that transformers reads, and what is wrong with those is said by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from cmrm.errors import ModelUnavailableError, UserError
from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import VisionLanguageModel
from cmrm.models.weight_files import need_safetensors

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.fixture(scope="module")
def shards(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random LLaVA in several shards."""
    folder = tmp_path_factory.mktemp("shards") / "model"
    shutil.copytree(llava_folder, folder, ignore=lambda *_: [WEIGHTS])
    model = AutoModelForImageTextToText.from_pretrained(llava_folder, dtype=torch.float32)
    model.save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


@pytest.fixture
def sharded(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "model"))


@pytest.fixture
def single(llava_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llava_folder, tmp_path / "model"))


def load(folder: Path) -> VisionLanguageModel:
    return load_model(resolve_model(str(folder)), dtype="float32", device="cpu")


def rename_first(folder: Path, name: str) -> None:
    """Make the index name another file in place of the first shard."""
    index = json.loads((folder / INDEX).read_text())
    first = min(index["weight_map"].values())
    changed = {key: name if value == first else value for key, value in index["weight_map"].items()}
    (folder / INDEX).write_text(json.dumps({**index, "weight_map": changed}))


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))


def test_a_model_in_shards_is_the_one_in_a_file_and_its_notes_say_what_was_read(
    shards: Path, vlm: VisionLanguageModel
) -> None:
    loaded = load(shards)
    expected = vlm.model.state_dict()
    assert all(torch.equal(one, expected[name]) for name, one in loaded.model.state_dict().items())
    (note,) = [note for note in loaded.notes if note.about == "weights"]
    count = len(list(shards.glob("*.safetensors")))
    assert (note.text, note.warning) == (f"{count} shards of {INDEX}", False)


def test_shards_beside_a_whole_file_are_not_read_and_that_is_told(sharded: Path, llava_folder: Path) -> None:
    shutil.copy(llava_folder / WEIGHTS, sharded)
    for path in sharded.glob("model-*.safetensors"):
        path.write_bytes(b"")
    (warning,) = [note for note in load(sharded).notes if note.warning]
    assert "reads the first and none of the shards" in warning.text


@pytest.mark.parametrize("name", ["../outside.safetensors", "sub/part.safetensors", "/tmp/part.safetensors"])
def test_an_index_that_leads_out_of_the_folder_or_below_it_is_refused(sharded: Path, name: str) -> None:
    # transformers reads such a file.
    rename_first(sharded, name)
    with pytest.raises(UserError, match=rf"takes weights from '{name}' \({INDEX}\)"):
        resolve_model(str(sharded))


def test_weights_that_the_config_names_are_read_beside_it_and_nowhere_else(single: Path) -> None:
    (single / WEIGHTS).rename(single / "own.safetensors")
    edit_config(single, lambda config: config.update(transformers_weights="own.safetensors"))
    assert load(single).notes
    edit_config(single, lambda config: config.update(transformers_weights="sub/own.safetensors"))
    with pytest.raises(UserError, match=r"takes weights from 'sub/own\.safetensors'"):
        resolve_model(str(single))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "TypeError"),
        ("{", "JSONDecodeError"),
        ('{"metadata": {}, "weight_map": {"a": 3}}', "names no files"),
        ('{"weight_map": {"a": "a.safetensors"}}', "KeyError: 'metadata'"),
    ],
)
def test_an_index_that_is_none_is_refused_by_name(sharded: Path, content: str, said: str) -> None:
    (sharded / INDEX).write_text(content)
    with pytest.raises(UserError, match=rf"index of weights that cannot be used, {INDEX} \(.*{said}"):
        resolve_model(str(sharded))


def test_a_missing_shard_is_named_before_anything_is_loaded(sharded: Path) -> None:
    gone = sorted(sharded.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(UserError, match=rf"lacks {gone.name} of the \d+ shards"):
        resolve_model(str(sharded))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data[:-100], "bytes instead of"),
        (lambda data: data + b"more", "bytes instead of"),
        (lambda data: data[:40], "ends within its header, after 40 bytes"),
        (lambda _: b"", "ends within its header, after 0 bytes"),
        (lambda _: LFS_POINTER, "is a Git LFS pointer"),
        (lambda data: data[:8] + b"!" + data[9:], "its header cannot be read"),
    ],
)
def test_a_shard_that_is_not_whole_is_named(
    sharded: Path, spoil: Callable[[bytes], bytes], said: str
) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.write_bytes(spoil(shard.read_bytes()))
    with pytest.raises(UserError, match=rf"cannot be loaded: {shard.name} .*{said}"):
        load(sharded)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.fp16.safetensors", r"it has model\.fp16\.safetensors\. Rename it"),
        ("pytorch_model.bin", r"pickled weights \(pytorch_model\.bin\) are not read"),
        ("model.pt", r"pickled weights \(model\.pt\) are not read"),
        ("consolidated.00.pth", r"pickled weights \(consolidated\.00\.pth\) are not read"),
    ],
)
def test_weights_that_transformers_would_not_find_are_named(single: Path, name: str, said: str) -> None:
    (single / WEIGHTS).rename(single / name)
    with pytest.raises(UserError, match=said):
        resolve_model(str(single))


def test_pickled_weights_beside_safetensors_change_nothing(single: Path, llava_folder: Path) -> None:
    (single / "pytorch_model.bin").write_bytes(b"anything")
    assert resolve_model(str(single)).fingerprint == resolve_model(str(llava_folder)).fingerprint


def test_a_model_in_a_subfolder_is_pointed_to(single: Path) -> None:
    (single / "hf").mkdir()
    for path in [one for one in single.iterdir() if one.is_file()]:
        path.rename(single / "hf" / path.name)
    with pytest.raises(UserError, match=r"has no config\.json; .* It has one in 'hf'"):
        resolve_model(str(single))


def test_links_as_in_the_hubs_cache_are_followed_and_a_dead_one_is_named(
    single: Path, tmp_path: Path
) -> None:
    whole = resolve_model(str(single)).fingerprint
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for path in list(single.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(f"../blobs/{path.name}")
    assert resolve_model(str(single)).fingerprint == whole
    (blobs / WEIGHTS).unlink()
    with pytest.raises(ModelUnavailableError, match=rf"{WEIGHTS} in .* is a link to '\.\./blobs/{WEIGHTS}'"):
        resolve_model(str(single))


def test_weights_of_another_shape_than_the_configs_are_named_with_both(single: Path) -> None:
    edit_config(single, lambda config: config["text_config"].update(intermediate_size=32))
    with pytest.raises(
        UserError, match=r"layers\.0\.mlp\.down_proj\.weight of shape \[32, 64\].* \[32, 32\]"
    ):
        load(single)


def test_weights_for_which_the_config_has_no_place_are_told(single: Path) -> None:
    edit_config(single, lambda config: config["text_config"].update(num_hidden_layers=2))
    (warning,) = [note for note in load(single).notes if note.warning]
    assert warning.about == "weights"
    assert "layers.2.input_layernorm.weight and 17 more" in warning.text


def test_a_judges_folder_is_held_to_the_same_rules(sharded: Path) -> None:
    rename_first(sharded, "../outside.safetensors")
    with pytest.raises(UserError, match=r"'judge' takes weights from"):
        need_safetensors(sharded, where="'judge'")
