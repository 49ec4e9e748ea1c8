"""What cannot be loaded as it was asked for is refused, and the error names the field."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from cmrm import attention
from cmrm.errors import UserError
from cmrm.loading import load_model
from cmrm.revision import resolve_model


def test_weights_that_are_missing_are_not_made_up(llava_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "layers.2.mlp.down_proj" in name)
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"holds no weights for .*layers\.2\.mlp\.down_proj"):
        load_model(resolve_model(str(folder)), device="cpu")


def test_flash_attention_in_float32_is_refused_when_loaded(
    llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = AutoModelForImageTextToText.from_pretrained
    # Its package needs a GPU, so here another implementation is loaded under its name.
    monkeypatch.setattr(
        AutoModelForImageTextToText,
        "from_pretrained",
        lambda folder, **more: load(folder, **{**more, "attn_implementation": "sdpa"}),
    )
    monkeypatch.setattr(attention, "find_spec", lambda name: name)
    with pytest.raises(UserError, match=r"'flash_attention_2' knows float16 and bfloat16 alone.*float32"):
        load_model(
            resolve_model(str(llava_folder)),
            dtype="float32",
            device="cpu",
            attn_implementation="flash_attention_2",
        )


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3"])
def test_attention_that_is_not_installed_is_refused_before_transformers_looks_for_it_on_the_hub(
    llava_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(attention, "find_spec", lambda _: None)
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", None)
    with pytest.raises(UserError, match=rf"model\.attn_implementation: '{name}' needs the package"):
        load_model(resolve_model(str(llava_folder)), device="cpu", attn_implementation=name)  # type: ignore[arg-type]


def test_attention_that_a_model_does_not_know_is_named(
    llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.LlavaForConditionalGeneration._supports_sdpa", False)
    with pytest.raises(UserError, match=r"model\.attn_implementation: this model cannot use 'sdpa'"):
        load_model(resolve_model(str(llava_folder)), device="cpu")


@pytest.mark.parametrize("own", ["eager", "someone/kernel"])
def test_attention_is_computed_as_asked_whatever_a_config_says_of_its_own(
    llava_folder: Path, tmp_path: Path, own: str
) -> None:
    folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["_attn_implementation"] = own
    (folder / "config.json").write_text(json.dumps(config))
    used = load_model(resolve_model(str(folder)), device="cpu").model.config
    parts = (used, used.text_config, used.vision_config)
    assert [part._attn_implementation for part in parts] == ["sdpa"] * 3
