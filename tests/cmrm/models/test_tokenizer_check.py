"""Loading a folder says in one line that its tokenizer reads texts otherwise than in training."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from cmrm.errors import UserError
from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.models.tokenizer_check import find_tokenizer_faults


@pytest.fixture
def load(tmp_path: Path, llava_folder: Path, caplog: pytest.LogCaptureFixture) -> Callable[..., list[str]]:
    """Load a copy of the random LLaVA after a change of its tokenizer's settings: the lines that were logged."""

    def load(*, bos_first: bool = False, **settings: object) -> list[str]:
        folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
        config = folder / "tokenizer_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))
        if bos_first:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
            tokenizer.save(str(folder / "tokenizer.json"))
        load_model(resolve_model(str(folder)), dtype="float32", device="cpu")
        warnings = (one for one in caplog.records if one.levelno == logging.WARNING)
        return [record.getMessage() for record in warnings if record.name == "cmrm.models"]

    return load


def test_prompts_without_the_bos_that_the_settings_ask_for_are_told(load: Callable[..., list[str]]) -> None:
    (line,) = load(add_bos_token=True)
    assert line.startswith("model.id: ")
    assert "its prompts begin without <s>" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("bos_first", "settings"),
    [(True, {"add_bos_token": True}), (False, {"add_bos_token": False}), (False, {})],
)
def test_a_tokenizer_that_does_as_its_settings_say_is_not(
    load: Callable[..., list[str]], *, bos_first: bool, settings: dict[str, object]
) -> None:
    assert load(bos_first=bos_first, **settings) == []


def test_a_sentencepiece_file_alone_is_told(tmp_path: Path, llava_folder: Path) -> None:
    vlm = load_model(resolve_model(str(llava_folder)), dtype="float32", device="cpu")
    (tmp_path / "tokenizer.model").write_bytes(b"\n")
    (line,) = find_tokenizer_faults(vlm, tmp_path)
    assert "tokenizer.model and no tokenizer.json" in line
    (tmp_path / "tokenizer.json").write_text("{}")
    assert list(find_tokenizer_faults(vlm, tmp_path)) == []
    # Llama's tokenizers put BOS first where nothing is said.
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    (line,) = find_tokenizer_faults(vlm, tmp_path)
    assert "begin without <s>" in line


def test_an_image_token_that_the_tokenizer_splits_is_named(llava_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    for name, field in (
        ("tokenizer.json", "added_tokens"),
        ("tokenizer_config.json", "extra_special_tokens"),
    ):
        content = json.loads((folder / name).read_text())
        content[field] = [one for one in content[field] if "<image>" not in str(one)]
        (folder / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"splits <image> into 7 tokens: tokenizer\.json lacks it"):
        load_model(resolve_model(str(folder)), dtype="float32", device="cpu")
