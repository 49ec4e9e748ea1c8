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
from transformers import AutoModelForImageTextToText

from cmrm.decoding.api import generate
from cmrm.errors import ModelChangedError, ModelUnavailableError, UserError
from cmrm.models import optional_packages as extras
from cmrm.models.adapters import find_adapter_revision, note_adapter, resolve_adapter
from cmrm.models.loading import load_model
from cmrm.models.pinning import check_unchanged
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import VisionLanguageModel, render
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
        ({"r": 8}, r"other shapes: .* \[4, \d+\] instead of \[8, \d+\]"),
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


@pytest.mark.parametrize(
    ("options", "changed", "outside"),
    [
        ({"use_dora": True}, 8, 0),
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, 10, 1),
        ({"modules_to_save": ["multi_modal_projector"]}, 9, 1),
        ({"trainable_token_indices": [5, 6, 40]}, 9, 0),
        ({"bias": "all"}, 8, 0),
        ({"targets": r".*(vision_tower.*fc1|layers\.1\.mlp\.up_proj)"}, 3, 2),
    ],
    ids=["dora", "saved vocabulary", "saved projector", "trained tokens", "biases", "vision tower"],
)
def test_whatever_else_an_adapter_trained_is_applied_and_told(
    llava_folder: Path,
    tmp_path: Path,
    noise_prompts: Prompts,
    *,
    options: dict[str, Any],
    changed: int,
    outside: int,
) -> None:
    lora = make_lora(llava_folder, tmp_path / "lora", merged=tmp_path / "merged", **options)
    adapted = load_model(
        resolve_model(str(llava_folder)), dtype="float32", device="cpu", adapter=resolve_adapter(str(lora))
    )
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    inputs = render(adapted, noise_prompts)
    with torch.inference_mode():
        logits, expected = (one(**inputs).logits[:, -1] for one in (adapted.model, merged))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    (note,) = [note for note in adapted.notes if note.about == "adapter"]
    assert note.text == f"{lora} changes {changed} modules, {outside} of them outside the decoder"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_adapter_of_a_larger_vocabulary_is_refused_with_the_fix(
    llava_folder: Path, tmp_path: Path
) -> None:
    saved = ["embed_tokens", "lm_head"]
    lora = make_lora(llava_folder, tmp_path / "lora", rows=264, modules_to_save=saved)
    with pytest.raises(
        UserError, match=r"\[264, 32\] instead of \[260, 32\], as of a vocabulary of 264 tokens"
    ):
        load_model(resolve_model(str(llava_folder)), device="cpu", adapter=resolve_adapter(str(lora)))


def test_an_adapter_of_another_model_and_of_other_prompts_is_told(lora: Path, llava_folder: Path) -> None:
    edit_config(lora, base_model_name_or_path="someone/llava-other")
    tokenizer = json.loads((llava_folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 260, "content": "<more>"})
    (lora / "tokenizer.json").write_text(json.dumps(tokenizer))
    (lora / "chat_template.jinja").write_text("another")
    adapter = resolve_adapter(str(lora))
    loaded = load_model(resolve_model(str(llava_folder)), dtype="float32", device="cpu", adapter=adapter)
    first, second, third = (note.text for note in loaded.notes if note.warning)
    assert "it was made for someone/llava-other, and model.id is" in first
    assert "a tokenizer.json with other tokens than the model's, which is not read" in second
    assert "a chat template other than the model's (chat_template.jinja), which is not read" in third


def test_an_adapter_with_a_copy_of_the_models_prompts_is_none(
    adapted: VisionLanguageModel, lora: Path, llava_folder: Path
) -> None:
    tokenizer = json.loads((llava_folder / "tokenizer.json").read_text())
    # Trainers save how they padded.
    (lora / "tokenizer.json").write_text(json.dumps({**tokenizer, "padding": {"strategy": "BatchLongest"}}))
    shutil.copy(llava_folder / "chat_template.jinja", lora)
    identity = resolve_model(str(llava_folder))
    notes = note_adapter(adapted.model, resolve_adapter(str(lora)), identity)
    assert [note.warning for note in notes] == [False]
