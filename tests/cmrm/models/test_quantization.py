"""Quantized weights: the decoder's alone, and the laws of the method hold on them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from cmrm.decoding.api import generate
from cmrm.doctor import examine
from cmrm.errors import UserError
from cmrm.models import optional_packages as extras
from cmrm.models import weights
from cmrm.models.adapters import resolve_adapter
from cmrm.models.loading import load_model
from cmrm.models.memory import count_weight_bytes
from cmrm.models.quantization import Quantization
from cmrm.models.revision import ModelIdentity, resolve_model
from cmrm.models.vlm import VisionLanguageModel
from cmrm.organism.places import resolve_organism_model
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import noise_image
from cmrm.steering.capture import embed
from cmrm.steering.hooks import embed_steered
from cmrm.steering.intervention import Intervention
from cmrm.steering.shift import measure_sample_shift
from tests.lora import make_lora

QUANTIZATIONS = {
    "8": Quantization(bits=8),
    "4 nf4": Quantization(bits=4, type="nf4"),
    "4 fp4 double": Quantization(bits=4, type="fp4", double=True),
}
# The embedded model is 128 wide: bitsandbytes packs 4-bit weights for some processors in multiples of 64.
TEXT = [Prompt(text=text) for text in ("what colour is the square", "name the shape", "hello")]
PICTURED = [Prompt(text=prompt.text, image=noise_image(size=32, seed=row)) for row, prompt in enumerate(TEXT)]
BLOCK = 4


@pytest.fixture(scope="module")
def identity() -> ModelIdentity:
    return resolve_model(str(resolve_organism_model("organism")))


@pytest.fixture(scope="module", params=QUANTIZATIONS)
def quantized(request: pytest.FixtureRequest, identity: ModelIdentity) -> VisionLanguageModel:
    return load_model(identity, dtype="float32", device="cpu", quantization=QUANTIZATIONS[request.param])


def list_layers(module: nn.Module) -> set[str]:
    return {type(one).__name__ for one in module.modules() if isinstance(one, nn.Linear)}


def test_the_decoders_layers_are_quantized_and_no_others(quantized: VisionLanguageModel) -> None:
    assert list_layers(quantized.decoder) <= {"Linear8bitLt", "Linear4bit"}
    assert list_layers(quantized.decoder)
    model = quantized.model
    for part in (model.model.vision_tower, model.model.multi_modal_projector, model.lm_head):
        assert list_layers(part) == {"Linear"}
    four_bit = [one for one in quantized.decoder.modules() if type(one).__name__ == "Linear4bit"]
    assert {one.compute_dtype for one in four_bit} <= {torch.float32}


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_quantized_weights_take_what_is_asked_of_free_memory(
    name: str, identity: ModelIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    plain = count_weight_bytes(identity.folder, dtype=torch.float32, where="here")
    monkeypatch.setattr(weights, "need_memory", lambda *_, saved, **__: asked.append(plain - saved))
    vlm = load_model(identity, dtype="float32", device="cpu", quantization=QUANTIZATIONS[name])
    kept = list(vlm.model.state_dict().values())
    # bitsandbytes keeps the scales of 4 bits in the state of each weight.
    states = [
        one.quant_state for one in vlm.model.parameters() if getattr(one, "quant_state", None) is not None
    ]
    scales = [one.absmax for one in states] + [one.state2.absmax for one in states if one.nested]
    taken = sum(one.nbytes for one in {one.data_ptr(): one for one in (*kept, *scales)}.values())
    # Each layer has a table of its levels as well, which counts in a model as small as this.
    assert asked == [pytest.approx(taken, rel=0.05)]


def test_states_are_near_those_of_the_plain_weights_and_not_the_same(
    quantized: VisionLanguageModel, identity: ModelIdentity
) -> None:
    plain = embed(load_model(identity, dtype="float32", device="cpu"), PICTURED, blocks=[BLOCK])
    distance = (embed(quantized, PICTURED, blocks=[BLOCK]) - plain).norm() / plain.norm()
    assert 1e-4 < distance < 0.5


def test_exactness_identity_and_proof_hold(quantized: VisionLanguageModel) -> None:
    delta = measure_sample_shift(quantized, with_image=PICTURED, text_only=TEXT, blocks=[BLOCK])
    full = Intervention(delta=delta, alpha=1.0, blocks=(BLOCK,))
    wanted = embed(quantized, TEXT, blocks=[BLOCK])
    steered = embed_steered(quantized, PICTURED, blocks=[BLOCK], intervention=full)
    # The same passes again: quantized or not, they come to the same states.
    torch.testing.assert_close(steered, wanted, atol=1e-3, rtol=1e-3)
    plain = generate(quantized, PICTURED, max_new_tokens=5)
    still = Intervention(delta=delta, alpha=0.0, blocks=(BLOCK,))
    assert generate(quantized, PICTURED, max_new_tokens=5, intervention=still).answers == plain.answers
    proof = generate(quantized, PICTURED, max_new_tokens=5, intervention=full).proof
    assert proof is not None
    assert proof.distance[BLOCK] == pytest.approx(float(delta.norm(dim=-1).mean()), rel=1e-3)


def test_the_doctor_finds_nothing_wrong_with_quantized_weights(identity: ModelIdentity) -> None:
    # 8 bits: the rows of a batch share what is rounded, so that this is where batches could go wrong.
    vlm = load_model(identity, dtype="float32", device="cpu", quantization=QUANTIZATIONS["8"])
    findings = list(examine(vlm, image_size=32))
    assert [f"{one.name}: {one.detail}" for one in findings if not one.passed] == []


def test_an_adapter_is_laid_over_quantized_weights(identity: ModelIdentity, tmp_path: Path) -> None:
    lora = resolve_adapter(str(make_lora(identity.folder, tmp_path / "lora")))
    states = [
        embed(
            load_model(identity, dtype="float32", device="cpu", quantization=quantization, adapter=lora),
            PICTURED,
            blocks=[BLOCK],
        )
        for quantization in (None, QUANTIZATIONS["8"], QUANTIZATIONS["4 nf4"])
    ]
    plain = embed(load_model(identity, dtype="float32", device="cpu"), PICTURED, blocks=[BLOCK])
    for state in states[1:]:
        assert (state - states[0]).norm() < 0.5 * (states[0] - plain).norm()


def test_weights_that_are_quantized_already_are_not_quantized_again(
    llava_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    model = AutoModelForImageTextToText.from_pretrained(
        folder, quantization_config=BitsAndBytesConfig(load_in_8bit=True), device_map={"": "cpu"}
    )
    model.save_pretrained(folder)
    with pytest.raises(UserError, match=r"model\.quantization: .* quantized already"):
        load_model(resolve_model(str(folder)), device="cpu", quantization=QUANTIZATIONS["8"])


def test_without_bitsandbytes_one_line_says_what_to_install(
    identity: ModelIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    with pytest.raises(UserError, match=r"model\.quantization: .*bitsandbytes.*'cmrm\[quantization\]'"):
        load_model(identity, device="cpu", quantization=QUANTIZATIONS["8"])
