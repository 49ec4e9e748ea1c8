"""Stop tokens, padding and vocabulary of a folder: answers are those of plain decoding, and oddities told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from cmrm.decoding.api import generate
from cmrm.errors import UserError
from cmrm.models.folder_note import FolderNote
from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prompts.conditions import Prompt

TOKENIZER, GENERATION, CONFIG = "tokenizer_config.json", "generation_config.json", "config.json"
LENGTH = 12


@pytest.fixture
def folder(llava_folder: Path, tmp_path: Path) -> Path:
    """A copy of the random LLaVA, to be changed."""
    return Path(shutil.copytree(llava_folder, tmp_path / "model"))


def edit(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def load(folder: Path) -> VisionLanguageModel:
    return load_model(resolve_model(str(folder)), dtype="float32", device="cpu")


def answer_plainly(folder: Path, prompts: Sequence[Prompt]) -> list[list[int]]:
    """The token ids of greedy answers by transformers alone, one question at a time."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(folder)
    answers = []
    for prompt in prompts:
        content = [{"type": "image", "image": prompt.image}, {"type": "text", "text": prompt.text}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        made = model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False)
        answers.append(made[0, inputs["input_ids"].shape[1] :].tolist())
    return answers


def decode(folder: Path, answers: Sequence[Sequence[int]]) -> list[tuple[str, int]]:
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    return [(tokenizer.decode(one, skip_special_tokens=True), len(one)) for one in answers]


def answer(vlm: VisionLanguageModel, prompts: Sequence[Prompt]) -> list[tuple[str, int]]:
    return [(one.text, one.tokens) for one in generate(vlm, prompts, max_new_tokens=LENGTH).answers]


def list_warnings(vlm: VisionLanguageModel, about: str) -> list[str]:
    return [note.text for note in vlm.notes if note.warning and note.about == about]


def test_an_answer_ends_at_any_of_several_stop_tokens(folder: Path, noise_prompts: Sequence[Prompt]) -> None:
    prompts = list(noise_prompts)[:2]
    free = answer_plainly(folder, prompts)
    edit(folder / GENERATION, eos_token_id=[2, free[0][3], free[1][2], 99_999])
    expected = answer_plainly(folder, prompts)
    assert len({len(one) for one in expected} | {LENGTH}) > 1
    vlm = load(folder)
    assert answer(vlm, prompts) == decode(folder, expected)
    (warning,) = list_warnings(vlm, "stop tokens")
    assert "eos_token_id 99999, which the model cannot write: it has 260 tokens" in warning


def test_padding_rows_of_a_vocabulary_are_chosen_as_in_plain_greedy_decoding(
    folder: Path, noise_prompts: Sequence[Prompt]
) -> None:
    prompts = list(noise_prompts)[:2]
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    model.resize_token_embeddings(272)
    with torch.no_grad():
        # Of any state, one of the two is far above all tokens.
        model.lm_head.weight[270] = 20 * model.lm_head.weight[7]
        model.lm_head.weight[271] = -20 * model.lm_head.weight[7]
    model.save_pretrained(folder)
    expected = answer_plainly(folder, prompts)
    assert any(token >= 270 for one in expected for token in one)
    vlm = load(folder)
    assert answer(vlm, prompts) == decode(folder, expected)
    assert FolderNote(
        about="tokenizer", text="260 tokens; the model has 272, of which the last are padding"
    ) in (vlm.notes)


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(folder: Path) -> None:
    edit(folder / TOKENIZER, pad_token="<never>")
    with pytest.raises(UserError, match=r"tokens up to id 260, such as '<never>' \(260\).* 260 rows"):
        load(folder)


def test_padding_by_eos_is_told_and_changes_no_answer(
    folder: Path, vlm: VisionLanguageModel, noise_prompts: Sequence[Prompt]
) -> None:
    edit(folder / TOKENIZER, pad_token=None, padding_side="right")
    unpadded = load(folder)
    (note,) = [note for note in unpadded.notes if note.about == "padding"]
    assert note.text == "the tokenizer has no pad_token; its eos_token </s> (2) is used"
    assert answer(unpadded, noise_prompts) == answer(vlm, noise_prompts)


def test_padding_by_a_word_of_texts_is_told(folder: Path) -> None:
    edit(folder / TOKENIZER, pad_token="a")
    (warning,) = list_warnings(load(folder), "padding")
    assert "pad_token 'a' is a token of ordinary texts" in warning


def test_padding_by_the_placeholder_of_images_is_refused(folder: Path) -> None:
    edit(folder / TOKENIZER, pad_token="<image>")
    with pytest.raises(UserError, match=r"pads with <image>, the placeholder of an image"):
        load(folder)


@pytest.mark.parametrize(
    ("file", "fields", "said"),
    [
        (GENERATION, {"eos_token_id": []}, "no token stops an answer"),
        (GENERATION, {"eos_token_id": 7}, r"the tokenizer's eos_token </s> (2) stops no answer"),
        (GENERATION, {"eos_token_id": -1}, "eos_token_id -1, which the model cannot write"),
    ],
)
def test_stop_tokens_that_stop_nothing_are_told(
    folder: Path, file: str, fields: dict[str, Any], said: str
) -> None:
    edit(folder / file, **fields)
    assert any(said in text for text in list_warnings(load(folder), "stop tokens"))


def test_stop_tokens_that_are_words_are_refused(folder: Path) -> None:
    edit(folder / GENERATION, eos_token_id="</s>")
    with pytest.raises(UserError, match=rf"{GENERATION} of .* has eos_token_id '</s>', which is no token id"):
        load(folder)


@pytest.mark.parametrize("content", ["parts", "text"])
def test_a_token_that_ends_turns_and_no_answer_is_told(folder: Path, content: str) -> None:
    said = "{{ m.content }}" if content == "text" else "{{ m.content[0].text }}"
    turn = "{% if m.role == 'assistant' %}A: " + said + "<s>{% else %}"
    user = "U: {% for p in m.content %}{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}{% endfor %}"
    if content == "text":
        user = "{% if m.content is string %}U: {{ m.content }}{% else %}" + user + "{% endif %}"
    template = (
        "{% for m in messages %}"
        + turn
        + user
        + "{% endif %}{% endfor %}{% if add_generation_prompt %} A:{% endif %}"
    )
    (folder / "chat_template.jinja").write_text(template)
    (warning,) = list_warnings(load(folder), "stop tokens")
    assert warning.startswith("the chat template ends a turn with <s> (1), which stops no answer")
    edit(folder / GENERATION, eos_token_id=[2, 1])
    assert list_warnings(load(folder), "stop tokens") == []
