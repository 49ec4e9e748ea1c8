"""What cannot be loaded as it was asked for is refused, and the error names the field."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, PreTrainedModel

from cmrm.decoding.api import generate
from cmrm.errors import UserError
from cmrm.models import attention
from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prompts.conditions import Prompt


def test_weights_that_are_missing_are_not_made_up(llava_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "layers.2.mlp.down_proj" in name)
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"holds no weights for .*layers\.2\.mlp\.down_proj"):
        load_model(resolve_model(str(folder)), device="cpu")


def test_weights_of_a_package_that_is_not_installed_name_it_and_not_the_folder(
    llava_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="pip install compressed-tensors") as caught:
        load_model(resolve_model(str(folder)), device="cpu")
    assert "complete" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't"),
    ],
)
def test_an_oom_while_loading_is_reported_as_one_and_not_as_a_fault_of_the_folder(
    llava_folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def lack_memory(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", lack_memory)
    with pytest.raises(UserError, match=r"out of memory while loading .* smaller model\.dtype") as caught:
        load_model(resolve_model(str(llava_folder)), device="cpu")
    assert "complete" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        (
            "processor_config.json",
            {"vision_feature_select_strategy": "full"},
            ["processor_config.json has vision_feature_select_strategy 'full'", "config.json", "'default'"],
        ),
        (
            "processor_config.json",
            {"patch_size": 2},
            ["processor_config.json has patch_size 2", "vision_config.patch_size"],
        ),
        (
            "config.json",
            {"image_token_index": 7, "image_token_id": 7},
            ["processor_config.json has image_token 3", "7"],
        ),
    ],
    ids=["strategy", "patch", "token"],
)
def test_files_that_do_not_fit_together_are_named_with_the_field_before_any_work(
    llava_folder: Path, tmp_path: Path, file: str, change: dict[str, object], expected: Sequence[str]
) -> None:
    folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **change}))
    with pytest.raises(UserError, match="cannot read an image") as caught:
        load_model(resolve_model(str(folder)), device="cpu")
    for part in expected:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_with_neither_pad_nor_end_is_refused(llava_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    content = json.loads((folder / "tokenizer_config.json").read_text())
    for name in ("pad_token", "eos_token"):
        content.pop(name, None)
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="neither a pad_token nor an eos_token"):
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
    with pytest.raises(UserError, match=r"'flash_attention_2' supports float16 and bfloat16 only.*float32"):
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


@pytest.mark.parametrize(
    "setting", [{"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 1}, {"max_time": 0.0}]
)
def test_answers_are_greedy_whatever_settings_a_model_was_published_with(
    vlm: VisionLanguageModel,
    noise_prompts: Sequence[Prompt],
    llava_folder: Path,
    tmp_path: Path,
    setting: dict[str, float],
) -> None:
    folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, **setting}))
    bent = load_model(resolve_model(str(folder)), dtype="float32", device="cpu")
    plain = generate(vlm, noise_prompts, max_new_tokens=24)
    assert generate(bent, noise_prompts, max_new_tokens=24) == plain


def test_tokens_that_a_model_may_not_write_stay_out_of_its_answers(
    vlm: VisionLanguageModel, noise_prompts: Sequence[Prompt], llava_folder: Path, tmp_path: Path
) -> None:
    first = vlm.processor.tokenizer.encode(generate(vlm, noise_prompts, max_new_tokens=1).answers[0].text)
    folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "suppress_tokens": first}))
    bound = load_model(resolve_model(str(folder)), dtype="float32", device="cpu")
    assert generate(bound, noise_prompts, max_new_tokens=1) != generate(vlm, noise_prompts, max_new_tokens=1)


def test_a_chat_template_that_only_the_tokenizer_has_is_used(llava_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    usual = load_model(resolve_model(str(folder)), device="cpu")
    template = folder / "chat_template.jinja"
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**config, "chat_template": template.read_text()})
    )
    template.unlink()
    prompts = [Prompt(text="What is it?", image=None)]
    found = load_model(resolve_model(str(folder)), device="cpu")
    assert found.template == usual.template
    assert generate(found, prompts, max_new_tokens=4) == generate(usual, prompts, max_new_tokens=4)


def test_a_folder_without_any_chat_template_is_refused(llava_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match=r"neither the processor .* nor its tokenizer has a chat template"):
        load_model(resolve_model(str(folder)), device="cpu")
