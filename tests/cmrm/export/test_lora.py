"""The format `peft`: a LoRA that steers as hooks at every position do, and what it is refused for."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from cmrm.errors import UserError
from cmrm.export import FORMATS
from cmrm.export.format import ExportError
from tests.cmrm.export.conftest import make_request, refer
from tests.conformance.builders import BUILDERS

LORA = FORMATS.make("peft")
WEIGHTS = "adapter_model.safetensors"


def write(request, folder):
    folder.mkdir()
    LORA.check(request)
    LORA.write(request, folder)
    return folder


@pytest.mark.parametrize("backbone", ["llama", "qwen2"])
def test_peft_loads_the_adapter_and_computes_what_hooks_at_every_position_do(
    backbone_folder, backbone, tmp_path
):
    source = backbone_folder(backbone)
    request = make_request(source)
    folder = write(request, tmp_path / "lora")
    with warnings.catch_warnings():
        # That it cannot be merged; and peft asks transformers for a property by its old name.
        warnings.simplefilter("ignore")
        adapted = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(source), folder)
    chat = [{"role": "user", "content": [{"type": "text", "text": "what is it?"}]}]
    inputs = AutoProcessor.from_pretrained(source).apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.inference_mode():
        found = adapted.eval()(**inputs).logits
        with adapted.disable_adapter():
            plain = adapted(**inputs).logits
        for block, vector in zip((1, 2), request.shift.subtracted, strict=True):
            adapted.model.model.language_model.layers[block].register_forward_hook(
                lambda _block, _args, output, vector=vector: output - 0.5 * vector
            )
        with adapted.disable_adapter():
            expected = adapted(**inputs).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert (plain - expected).abs().max() > 0.1


def test_the_adapter_is_a_bias_alone_at_the_steered_blocks_alone(backbone_folder, tmp_path):
    request = make_request(backbone_folder("llama"), blocks=(1,))
    folder = write(request, tmp_path / "lora")
    tensors = load_file(folder / WEIGHTS)
    stem = "base_model.model.model.language_model.layers.1.mlp.down_proj.lora"
    assert {name: tuple(one.shape) for name, one in tensors.items()} == {
        f"{stem}_A.weight": (1, 48),
        f"{stem}_B.weight": (32, 1),
        f"{stem}_B.bias": (32,),
    }
    assert tensors.pop(f"{stem}_B.bias").tolist() == (-0.5 * request.shift.subtracted[0]).tolist()
    assert not any(one.any() for one in tensors.values())
    config = json.loads((folder / "adapter_config.json").read_text())
    assert {name: config[name] for name in ("peft_type", "r", "lora_alpha", "lora_bias")} == {
        "peft_type": "LORA",
        "r": 1,
        "lora_alpha": 1,
        "lora_bias": True,
    }


def test_it_is_proved_against_hooks_and_fails_where_a_bias_is_missing(backbone_folder, tmp_path):
    request = make_request(backbone_folder("qwen2"))
    reference = refer(request)
    folder = write(request, tmp_path / "lora")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = LORA.prove(request, folder, reference)
        assert "logits differ from hooks'" in said[0]
        tensors = load_file(folder / WEIGHTS)
        for name, one in tensors.items():
            if "layers.2" in name and name.endswith("bias"):
                one.zero_()
        save_file(tensors, folder / WEIGHTS)
        with pytest.raises(ExportError, match="is not the steered model"):
            LORA.prove(request, folder, reference)


def test_it_is_proved_on_the_device_that_was_asked_for(backbone_folder, tmp_path, monkeypatch):
    request = replace(make_request(backbone_folder("llama")), device="cuda:9")
    monkeypatch.setattr("cmrm.models.devices.torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="cuda"):
        LORA.prove(request, tmp_path, SimpleNamespace(dtype=torch.float32, attention="sdpa"))


@pytest.mark.parametrize(
    ("family", "reason"), [("gemma3", "a norm follows"), ("mllama", "a gate scales"), ("aya_vision", None)]
)
def test_backbones_that_rescale_what_down_proj_gives_are_refused(family, reason, tmp_path):
    request = make_request(BUILDERS[family](tmp_path / family))
    if reason is None:
        LORA.check(request)
        return
    with pytest.raises(UserError, match=reason):
        LORA.check(request)
