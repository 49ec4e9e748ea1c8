"""Broken files of settings in a model's folder are refused by name before anything is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cmrm.errors import UserError
from cmrm.models.folder_json import SETTINGS
from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.models.text_models import resolve_text_model


@pytest.fixture
def folder(llava_folder: Path, tmp_path: Path) -> Path:
    """A copy of the random LLaVA, to be changed."""
    return Path(shutil.copytree(llava_folder, tmp_path / "model"))


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    ("content", "said"),
    [('{"eos_token_id": [2, 5', "cannot be read"), ("", "cannot be read"), ("[1]", "is no JSON object")],
)
def test_settings_that_are_cut_or_no_object_are_named(
    folder: Path, name: str, content: str, said: str
) -> None:
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=rf"^model\.id: .* has a {name} that {said}"):
        resolve_model(str(folder))


def test_settings_of_a_backbone_are_held_to_the_same_rule(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(
        UserError, match=r"^model\.backbone\.id: .* has a generation_config\.json that cannot"
    ):
        resolve_text_model(str(tmp_path))


@pytest.mark.parametrize(
    "content", ['{"model": null}', '{"version": "1.0"}', '["a"]', "null", '{"model": {', ""]
)
def test_a_tokenizer_that_no_library_reads_is_named(folder: Path, content: str) -> None:
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(
        UserError, match=r"^model\.id: .* cannot be loaded: its tokenizer\.json cannot be read \(.+\)"
    ):
        load_model(resolve_model(str(folder)), device="cpu")


@pytest.mark.parametrize("end", ["true", "[true]", "[2, false]"])
def test_a_stop_token_that_is_true_or_false_is_no_token(folder: Path, end: str) -> None:
    (folder / "generation_config.json").write_text(f'{{"eos_token_id": {end}}}')
    with pytest.raises(
        UserError, match=r"generation_config\.json of .* has eos_token_id (True|False), which is no token id"
    ):
        load_model(resolve_model(str(folder)), device="cpu")
