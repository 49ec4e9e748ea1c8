"""A LoRA adapter is pinned like a model, and a model under it answers as with the merged weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cmrm.decoding.api import generate
from cmrm.errors import ModelChangedError, ModelUnavailableError, UserError
from cmrm.models import optional_packages as extras
from cmrm.models.adapters import find_adapter_revision, resolve_adapter
from cmrm.models.loading import load_model
from cmrm.models.pinning import check_unchanged
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prompts.conditions import Prompt
from cmrm.steering.capture import embed
from cmrm.steering.hooks import embed_steered
from cmrm.steering.intervention import Intervention
from cmrm.steering.shift import measure_sample_shift
from tests.lora import make_lora

BLOCKS = (0, 1, 2, 3)
Prompts = Sequence[Prompt]


@pytest.fixture(scope="module")
def folders(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A LoRA for the random LLaVA, and that LLaVA with it merged in."""
    folder = tmp_path_factory.mktemp("lora")
    return make_lora(llava_folder, folder / "lora", merged=folder / "merged"), folder / "merged"


@pytest.fixture
def lora(folders: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the LoRA, to be changed."""
    return Path(shutil.copytree(folders[0], tmp_path / "lora"))


@pytest.fixture(scope="module")
def adapted(folders: tuple[Path, Path], llava_folder: Path) -> VisionLanguageModel:
    identity = resolve_model(str(llava_folder))
    return load_model(identity, dtype="float32", device="cpu", adapter=resolve_adapter(str(folders[0])))


def edit_config(lora: Path, **fields: Any) -> None:
    path = lora / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_states_and_steered_states_are_those_of_the_merged_weights(
    vlm: VisionLanguageModel,
    adapted: VisionLanguageModel,
    folders: tuple[Path, Path],
    noise_prompts: Prompts,
    text_prompts: Prompts,
) -> None:
    merged = load_model(resolve_model(str(folders[1])), dtype="float32", device="cpu")
    states = [embed(one, noise_prompts, blocks=BLOCKS) for one in (vlm, merged, adapted)]
    torch.testing.assert_close(states[2], states[1], atol=1e-4, rtol=1e-4)
    assert (states[2] - states[0]).abs().max() > 0.1
    delta = measure_sample_shift(merged, with_image=noise_prompts, text_only=text_prompts, blocks=BLOCKS)
    intervention = Intervention(delta=delta, alpha=0.7, blocks=BLOCKS, composition="incremental")
    steered = [
        embed_steered(one, noise_prompts, blocks=BLOCKS, intervention=intervention)
        for one in (merged, adapted)
    ]
    torch.testing.assert_close(steered[1], steered[0], atol=1e-3, rtol=1e-3)
    answers = [
        generate(one, noise_prompts, max_new_tokens=6, intervention=intervention).answers
        for one in (merged, adapted)
    ]
    assert answers[1] == answers[0]


def test_exactness_holds_with_an_adapter(
    adapted: VisionLanguageModel, noise_prompts: Prompts, text_prompts: Prompts
) -> None:
    delta = measure_sample_shift(adapted, with_image=noise_prompts, text_only=text_prompts, blocks=[2])
    intervention = Intervention(delta=delta, alpha=1.0, blocks=(2,))
    steered = embed_steered(adapted, noise_prompts, blocks=[2], intervention=intervention)
    torch.testing.assert_close(steered, embed(adapted, text_prompts, blocks=[2]), atol=1e-4, rtol=1e-4)


def test_changed_weights_or_settings_are_another_revision_and_a_card_is_none(lora: Path) -> None:
    first = resolve_adapter(str(lora))
    check_unchanged(first)
    (lora / "README.md").write_text("another card")
    assert find_adapter_revision(str(lora)) == first.revision
    edit_config(lora, lora_alpha=9)
    second = find_adapter_revision(str(lora))
    weights = load_file(lora / "adapter_model.safetensors")
    save_file(
        {name: tensor * 2 for name, tensor in weights.items()},
        lora / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    assert len({first.revision, second, find_adapter_revision(str(lora))}) == 3
    with pytest.raises(ModelChangedError, match=r"model\.adapter\.id: .* changed while"):
        check_unchanged(first)


def test_loaded_adapters_do_not_change_with_their_file(
    lora: Path, llava_folder: Path, text_prompts: Prompts
) -> None:
    identity = resolve_model(str(llava_folder))
    loaded = load_model(identity, dtype="float32", device="cpu", adapter=resolve_adapter(str(lora)))
    before = embed(loaded, text_prompts, blocks=BLOCKS)
    with (lora / "adapter_model.safetensors").open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(size // 2)
        file.write(b"\x3f" * (size - size // 2))
    assert torch.equal(embed(loaded, text_prompts, blocks=BLOCKS), before)


def test_a_hub_id_is_resolved_from_the_cache_to_its_commit(
    lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "b" * 40
    home = tmp_path / "hub" / "models--someone--lora"
    shutil.copytree(lora, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert resolve_adapter("someone/lora").fingerprint == f"hub:someone/lora@{commit}"
    with pytest.raises(ModelUnavailableError, match=r"model\.adapter\.id: 'someone/other'"):
        resolve_adapter("someone/other")


def pickle_it(lora: Path) -> None:
    (lora / "adapter_model.safetensors").rename(lora / "adapter_model.bin")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (pickle_it, "a pickled adapter_model.bin, which is not read"),
        (lambda lora: (lora / "adapter_model.safetensors").unlink(), "holds no weights"),
        (lambda lora: (lora / "adapter_config.json").unlink(), "has no adapter_config.json"),
        (lambda lora: (lora / "adapter_config.json").write_text("[1]"), "cannot be read"),
        (lambda lora: edit_config(lora, peft_type="IA3"), "is a 'IA3' adapter"),
        (shutil.rmtree, "no folder"),
    ],
)
def test_what_is_no_lora_in_safetensors_is_refused(
    lora: Path, spoil: Callable[[Path], Any], complaint: str
) -> None:
    spoil(lora)
    with pytest.raises(UserError, match=rf"model\.adapter\.id: .*{complaint}"):
        resolve_adapter(str(lora))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"target_modules": ".*nothing.*"}, "not found in the base model"),
        ({"r": 8}, "mismatched"),
        ({"target_modules": r".*language_model.*\.(q_proj)"}, "what the model does not have: .*down_proj"),
        ({"target_modules": r".*language_model.*\.(q_proj|k_proj|down_proj)"}, "no weights for .*k_proj"),
    ],
)
def test_an_adapter_that_was_made_for_another_model_is_refused(
    lora: Path, llava_folder: Path, fields: dict[str, Any], complaint: str
) -> None:
    edit_config(lora, **fields)
    with pytest.raises(
        UserError, match=rf"model\.adapter\.id: .* cannot be applied to this model: .*{complaint}"
    ):
        load_model(resolve_model(str(llava_folder)), device="cpu", adapter=resolve_adapter(str(lora)))


def test_an_adapter_given_as_a_model_is_refused(lora: Path, llava_folder: Path) -> None:
    for path in llava_folder.iterdir():
        shutil.copy(path, lora)
    with pytest.raises(UserError, match=r"model\.id: .*holds an adapter.*model\.adapter"):
        resolve_model(str(lora))


def test_without_peft_one_line_says_what_to_install(
    lora: Path, llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"model\.adapter: needs the package peft.*'cmrm\[adapters\]'"):
        load_model(resolve_model(str(llava_folder)), device="cpu", adapter=resolve_adapter(str(lora)))
