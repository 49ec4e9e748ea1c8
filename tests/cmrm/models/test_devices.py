"""A model that accelerate spreads over devices gives the same answers, and offloading to disk is refused."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import accelerate
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from cmrm.decoding.api import generate
from cmrm.errors import UserError
from cmrm.models import optional_packages as extras
from cmrm.models.devices import own_weights
from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import VisionLanguageModel, prepare_model
from cmrm.prompts.conditions import Prompt
from cmrm.steering.capture import embed
from cmrm.steering.intervention import Intervention
from cmrm.steering.shift import measure_sample_shift

BLOCKS = (0, 1, 2, 3)
Prompts = Sequence[Prompt]


@pytest.fixture
def placed(llava_folder: Path) -> VisionLanguageModel:
    """The random LLaVA as accelerate places it here."""
    return load_model(resolve_model(str(llava_folder)), dtype="float32", device_map="auto")


def offload(vlm: VisionLanguageModel) -> VisionLanguageModel:
    """Offload some of its parts to the CPU, as accelerate does when a device is short of memory."""
    for part in (vlm.model.get_input_embeddings(), vlm.blocks[1], vlm.blocks[2], vlm.model.lm_head):
        accelerate.cpu_offload(part, execution_device=torch.device("cpu"))
    assert next(vlm.blocks[1].parameters()).device.type == "meta"
    return vlm


def assert_same(
    one: VisionLanguageModel, other: VisionLanguageModel, prompts: Prompts, text: Prompts
) -> None:
    torch.testing.assert_close(embed(one, prompts, blocks=BLOCKS), embed(other, prompts, blocks=BLOCKS))
    delta = measure_sample_shift(other, with_image=prompts, text_only=text, blocks=(1, 3))
    for scope in ("every_step", "all"):
        intervention = Intervention(delta=delta, alpha=0.7, blocks=(1, 3), scope=scope)  # type: ignore[arg-type]
        found, wanted = (
            generate(vlm, prompts, max_new_tokens=6, intervention=intervention) for vlm in (one, other)
        )
        assert found.answers == wanted.answers
        assert found.proof == wanted.proof


def test_a_model_under_a_device_map_gives_the_states_and_steered_answers_of_the_plain_one(
    vlm: VisionLanguageModel, placed: VisionLanguageModel, noise_prompts: Prompts, text_prompts: Prompts
) -> None:
    assert placed.device == torch.device("cpu") or torch.cuda.is_available()
    assert_same(placed, vlm, noise_prompts, text_prompts)


def test_hooks_of_accelerate_and_of_steering_do_not_interfere(
    vlm: VisionLanguageModel, placed: VisionLanguageModel, noise_prompts: Prompts, text_prompts: Prompts
) -> None:
    offloaded = offload(placed)
    assert offloaded.device == torch.device("cpu")
    assert_same(offloaded, vlm, noise_prompts, text_prompts)
    assert hasattr(offloaded.blocks[1], "_hf_hook")


def test_offloaded_weights_do_not_change_with_their_file(
    llava_folder: Path, tmp_path: Path, noise_prompts: Prompts
) -> None:
    folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    offloaded = offload(prepare_model(model, AutoProcessor.from_pretrained(folder), where="here"))
    own_weights(offloaded.model)
    before = embed(offloaded, noise_prompts, blocks=BLOCKS)
    with (folder / "model.safetensors").open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(size // 8)
        file.write(b"\x3f" * (size - size // 8))
    assert torch.equal(embed(offloaded, noise_prompts, blocks=BLOCKS), before)


def test_a_model_that_would_be_offloaded_to_disk_is_refused(
    llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.integrations.accelerate.get_max_memory", lambda *_: {"cpu": 200_000})
    with pytest.raises(UserError, match=r"model\.device_map: .* needs more memory .* offloaded to disk"):
        load_model(resolve_model(str(llava_folder)), dtype="float32", device_map="sequential")


def test_without_accelerate_one_line_says_what_to_install(
    llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"model\.device_map: .*accelerate.*'cmrm\[multi-gpu\]'"):
        load_model(resolve_model(str(llava_folder)), device_map="auto")
