"""Text-only models beside a vision-language model: what they are shown, what they answer, and which are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor, AutoTokenizer

from cmrm.decoding.api import answer, why_apart
from cmrm.decoding.requests import DecodeRequest
from cmrm.doctor.examination import CHECKS, examine
from cmrm.errors import UserError
from cmrm.models.backbone import SHARING, load_text_backbone
from cmrm.models.revision import resolve_model
from cmrm.models.text_models import choose_prompts, resolve_text_model
from cmrm.models.vlm import VisionLanguageModel, find_special_token, render
from cmrm.prompts.conditions import Prompt
from cmrm.steering.capture import embed
from tests.text_models import TEXT_TEMPLATE, save_text_model, take_language_model

# Long enough to share a prefix.
START = "Think of whoever is going to read what you write, and answer in one short sentence: "
PROMPTS = [Prompt(text=START + text) for text in ("what is it?", "name every colour that there is", "hi")]
TOKENS = 6


@pytest.fixture(scope="module")
def same_folder(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The language model inside the random LLaVA, as a checkpoint of its own."""
    model = take_language_model(llava_folder)
    return save_text_model(tmp_path_factory.mktemp("same") / "text", model, llava_folder)


def load(
    folder: Path, llava: Path, *, template: Any = "model", attention: Any = "sdpa"
) -> VisionLanguageModel:
    return load_text_backbone(
        resolve_text_model(str(folder)),
        prompts=resolve_model(str(llava)),
        template=template,
        dtype="float32",
        device="cpu",
        attn_implementation=attention,
    )


def ask(model: VisionLanguageModel, prompts: Sequence[Prompt]) -> list[str]:
    request = DecodeRequest(prompts=prompts, arms=[None])
    found = {one.row: one.answers[0].text for one in answer(model, [request], max_new_tokens=TOKENS, rows=4)}
    return [found[row] for row in range(len(prompts))]


def ask_plainly(folder: Path, llava: Path, prompts: Sequence[Prompt]) -> list[str]:
    """Greedy answers by transformers alone, a prompt at a time, to the prompts of the LLaVA's processor."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(llava)
    answers = []
    for prompt in prompts:
        turns = [{"role": "user", "content": [{"type": "text", "text": prompt.text}]}]
        text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        ids = processor.tokenizer(text, return_tensors="pt")["input_ids"]
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False, eos_token_id=2
        )
        answers.append(processor.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True).strip())
    return answers


def test_equal_weights_give_the_tokens_states_and_answers_of_the_model_as_text(
    vlm: VisionLanguageModel, llava_folder: Path, same_folder: Path
) -> None:
    backbone = load(same_folder, llava_folder)
    assert torch.equal(render(backbone, PROMPTS)["input_ids"], render(vlm, PROMPTS)["input_ids"])
    inside, alone = (embed(one, PROMPTS, blocks=range(4)).double() for one in (vlm, backbone))
    cosines = torch.nn.functional.cosine_similarity(inside, alone, dim=-1)
    assert torch.allclose(cosines, torch.ones_like(cosines), atol=1e-6)
    assert ask(backbone, PROMPTS) == ask(vlm, PROMPTS)


def test_moved_weights_give_what_transformers_computes_on_the_tokens_of_the_model(
    llava_folder: Path, tmp_path: Path, vlm: VisionLanguageModel
) -> None:
    folder = save_text_model(tmp_path / "moved", take_language_model(llava_folder, moved=0.05), llava_folder)
    backbone = load(folder, llava_folder)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    ids = render(vlm, PROMPTS[:1])["input_ids"]
    with torch.inference_mode():
        states = plain(ids, output_hidden_states=True).hidden_states
    expected = torch.stack([state[0, -1] for state in states[1:-1]])
    # The last of transformers' states is after the norm.
    assert torch.allclose(embed(backbone, PROMPTS[:1], blocks=range(3))[0], expected, atol=1e-4)
    assert ask(backbone, PROMPTS) == ask_plainly(folder, llava_folder, PROMPTS) != ask(vlm, PROMPTS)


@pytest.mark.parametrize("model_type", [*sorted(SHARING), "gpt2", "olmo2"])
def test_each_type_answers_as_transformers_does(llava_folder: Path, tmp_path: Path, model_type: str) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type,
        vocab_size=260,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    folder = save_text_model(tmp_path / "text", AutoModelForCausalLM.from_config(config), llava_folder)
    backbone = load(folder, llava_folder, attention="eager" if model_type == "gemma2" else "sdpa")
    assert (why_apart(backbone) is None) == (model_type in SHARING)
    assert len(backbone.blocks) == 2
    assert ask(backbone, PROMPTS) == ask_plainly(folder, llava_folder, PROMPTS)


def test_own_template_is_that_of_the_text_model_with_its_system_line(
    llava_folder: Path, tmp_path: Path
) -> None:
    model = take_language_model(llava_folder)
    folder = save_text_model(tmp_path / "text", model, llava_folder, template=TEXT_TEMPLATE)
    backbone = load(folder, llava_folder, template="own")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [Prompt(text="hi", system="Be kind."), Prompt(text="what is <image>?", system="Be kind.")]
    ids = render(backbone, prompts)["input_ids"]
    texts = ["[system] Be kind.[user] hi [assistant]", "[system] Be kind.[user] what is <image>? [assistant]"]
    assert [row[row != 0].tolist() for row in ids] == [
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts
    ]
    with pytest.raises(ValueError, match="text-only"):
        render(backbone, [Prompt(text="hi", image="any")])  # type: ignore[arg-type] # never looked at


def test_padding_beyond_the_text_models_vocabulary_changes_no_answer(
    llava_folder: Path, same_folder: Path, tmp_path: Path
) -> None:
    llava = shutil.copytree(llava_folder, tmp_path / "llava")
    processor = AutoProcessor.from_pretrained(llava)
    processor.tokenizer.add_special_tokens({"pad_token": "<padding>"})
    assert processor.tokenizer.pad_token_id == 260
    processor.save_pretrained(llava)
    assert choose_prompts("auto", resolve_text_model(str(same_folder)), llava) == "model"
    assert ask(load(same_folder, llava), PROMPTS) == ask(load(same_folder, llava_folder), PROMPTS)


def test_a_token_that_the_text_model_does_not_know_is_found_in_texts(
    vlm: VisionLanguageModel, llava_folder: Path, same_folder: Path, tmp_path: Path
) -> None:
    llava = shutil.copytree(llava_folder, tmp_path / "llava")
    processor = AutoProcessor.from_pretrained(llava)
    processor.tokenizer.add_tokens(["<tool>"])
    processor.save_pretrained(llava)
    backbone = load(same_folder, llava)
    assert backbone.unknown_tokens == {"<tool>"}
    assert find_special_token(backbone, Prompt(text="what is <tool> for?")) == "<tool>"
    assert find_special_token(backbone, Prompt(text="what is a tool for?")) is None
    assert load(same_folder, llava_folder).unknown_tokens == vlm.unknown_tokens == frozenset()


def test_its_notes_tell_its_own_weights_and_whose_template_it_is_asked_by(
    llava_folder: Path, same_folder: Path, tmp_path: Path
) -> None:
    def tell(folder: Path, template: str) -> dict[str, str]:
        return {note.about: note.text for note in load(folder, llava_folder, template=template).notes}

    shown = {"padding": "<pad> (0)", "weights": "model.safetensors", "stop tokens": "</s> (2)"}
    told = tell(same_folder, "model")
    assert told == {**shown, "chat template": "chat_template.jinja"}
    own = shutil.copytree(same_folder, tmp_path / "own")
    settings = json.loads((own / "tokenizer_config.json").read_text())
    (own / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEXT_TEMPLATE}))
    assert tell(own, "own") == {**shown, "chat template": "tokenizer_config.json"}


def test_weights_without_a_place_in_the_text_model_are_warned_of(
    llava_folder: Path, same_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(same_folder, tmp_path / "text")
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "extra.weight": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"})
    (warned,) = [note for note in load(folder, llava_folder).notes if note.warning]
    assert "no place for, extra.weight" in warned.text


def test_the_doctor_checks_what_reading_and_answering_text_rests_on(
    llava_folder: Path, same_folder: Path
) -> None:
    backbone = load(same_folder, llava_folder)
    findings = list(examine(backbone))
    assert [one.name for one in findings if not one.passed] == []
    assert {"states", "answering", "shared prefixes", "branches"} <= {one.name for one in findings}
    turned = replace(backbone, blocks=backbone.blocks[::-1])
    (found,) = examine(turned, checks=[one for one in CHECKS if one.name == "states"])
    assert not found.passed


def refuse(folder: Path, llava: Path, *, template: Any = "auto") -> str:
    with pytest.raises(UserError) as caught:
        choose_prompts(template, resolve_text_model(str(folder)), llava)
    return str(caught.value)


def test_a_model_that_takes_images_is_no_backbone(llava_folder: Path) -> None:
    said = refuse(llava_folder, llava_folder)
    assert said.startswith("model.backbone.id:")
    assert "takes images" in said
    assert "backbone: inside" in said


def test_pickled_weights_alone_are_refused(same_folder: Path, llava_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(same_folder, tmp_path / "text")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    said = refuse(folder, llava_folder)
    assert said.startswith("model.backbone.id:")
    assert "(pytorch_model.bin) are not read" in said


def test_an_adapter_is_refused(same_folder: Path, llava_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(same_folder, tmp_path / "text")
    (folder / "adapter_config.json").write_text("{}")
    assert "Merge it" in refuse(folder, llava_folder)


def test_a_base_model_has_no_template_of_its_own(same_folder: Path, llava_folder: Path) -> None:
    said = refuse(same_folder, llava_folder, template="own")
    assert said.startswith("model.backbone.template:")
    assert "no chat template" in said


def test_another_vocabulary_is_asked_by_its_own_template_or_refused(
    same_folder: Path, llava_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(same_folder, tmp_path / "text")
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    words = content["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    file.write_text(json.dumps(content))
    numbers = sorted((words["a"], words["b"]))
    said = refuse(folder, llava_folder, template="model")
    assert f"token {numbers[0]} is 'a' to the model and 'b' to it" in said
    assert "template: own" in said
    assert "no chat template" in refuse(folder, llava_folder)
    (folder / "chat_template.jinja").write_text(TEXT_TEMPLATE)
    assert choose_prompts("auto", resolve_text_model(str(folder)), llava_folder) == "own"


def test_a_tokenizer_that_splits_texts_otherwise_does_not_agree(
    same_folder: Path, llava_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(same_folder, tmp_path / "text")
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["normalizer"] = {"type": "Lowercase"}
    file.write_text(json.dumps(content))
    assert "split 'USER: How do I bake bread?" in refuse(folder, llava_folder, template="model")


def test_a_token_of_the_template_that_means_another_text_is_refused_when_loaded(
    same_folder: Path, llava_folder: Path, tmp_path: Path
) -> None:
    llava = shutil.copytree(llava_folder, tmp_path / "llava")
    template = llava / "chat_template.jinja"
    template.write_text(template.read_text().replace("USER:", "<|turn|>"))
    processor = AutoProcessor.from_pretrained(llava)
    processor.tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    processor.save_pretrained(llava)
    with pytest.raises(UserError, match=r"hold '<\|turn\|>', token 260, which is no token to"):
        load(same_folder, llava)
