"""The reasoning marks that a model's folder names: in its chat template, or among its tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmrm.models.loading import load_model
from cmrm.models.reasoning import find_reasoning_marks
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import VisionLanguageModel, decode_answer
from cmrm.prompts.reasoning import ReasoningMarks

TURNS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
)
OLD = "{% if '</think>' in messages[0].content|string %}{{ raise_exception('no') }}{% endif %}"
PLAIN = TURNS + "{% endif %}"
THINK = ("<think>", "</think>")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write_folder(template: str | None, *, file: str = "chat_template.jinja", **tokens: bool) -> Path:
        if template is not None and file.endswith(".jinja"):
            (tmp_path / file).write_text(template, encoding="utf-8")
        elif template is not None:
            (tmp_path / file).write_text(json.dumps({"chat_template": template}), encoding="utf-8")
        listed = [
            {"id": number, "content": token, "special": special}
            for number, (token, special) in enumerate(tokens.items())
        ]
        (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": listed}), encoding="utf-8")
        return tmp_path

    return write_folder


@pytest.mark.parametrize(
    ("beginning", "opened"),
    [("<think>\n{% endif %}", True), ("{% endif %}" + OLD, False)],
    ids=["opened by the prompt", "by the model"],
)
@pytest.mark.parametrize("file", ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"])
def test_a_template_with_the_marks_says_whether_the_prompt_opens_the_trace(
    write: Callable[..., Path], *, beginning: str, opened: bool, file: str
) -> None:
    marks = find_reasoning_marks(write(TURNS + beginning, file=file, **{"<think>": False, "</think>": False}))
    assert marks == ReasoningMarks(opening="<think>", closing="</think>", opened=opened)


def test_a_prompt_that_closes_an_empty_trace_leaves_no_trace(write: Callable[..., Path]) -> None:
    assert find_reasoning_marks(write(TURNS + "<think>\n\n</think>\n\n{% endif %}")) is None


def test_models_without_marks_have_none_and_tokens_alone_are_told_apart(write: Callable[..., Path]) -> None:
    assert find_reasoning_marks(write(PLAIN, **{"<tool_call>": False})) is None
    found = find_reasoning_marks(write(PLAIN, **{"<think>": False, "</think>": False}))
    assert found == ReasoningMarks(opening="<think>", closing="</think>", declared="tokens")


def test_special_marks_and_those_around_the_answer_are_found(write: Callable[..., Path]) -> None:
    tokens = {"[THINK]": True, "[/THINK]": True, "<|begin_of_box|>": True, "<|end_of_box|>": False}
    found = find_reasoning_marks(write(TURNS + "{% endif %}", **tokens))
    assert found == ReasoningMarks(
        opening="[THINK]",
        closing="[/THINK]",
        wrapping=("<|begin_of_box|>", "<|end_of_box|>"),
        special=("[THINK]", "[/THINK]", "<|begin_of_box|>"),
        declared="tokens",
    )


def test_marks_that_a_file_escapes_are_found(tmp_path: Path) -> None:
    added = {
        "added_tokens_decoder": {"7": {"content": "◁think▷", "special": True}, "8": {"content": "◁/think▷"}}
    }
    text = json.dumps(added)
    assert "◁" not in text
    (tmp_path / "tokenizer_config.json").write_text(text, encoding="utf-8")
    found = find_reasoning_marks(tmp_path)
    assert found is not None
    assert (found.opening, found.closing, found.special) == ("◁think▷", "◁/think▷", ("◁think▷",))


def test_marks_that_a_spec_names_go_before_all_others(write: Callable[..., Path]) -> None:
    folder = write(TURNS + "<hm>{% endif %}", **{"<think>": True, "<hm>": True})
    assert find_reasoning_marks(folder, asked=("<hm>", "</hm>")) == ReasoningMarks(
        opening="<hm>", closing="</hm>", opened=True, special=("<hm>",), declared="spec"
    )


@pytest.mark.parametrize("content", ["{", "[]", '{"chat_template": 7, "added_tokens": [7, {"content": 7}]}'])
def test_a_broken_file_names_no_marks(tmp_path: Path, content: str) -> None:
    for name in ("chat_template.json", "tokenizer_config.json", "tokenizer.json"):
        (tmp_path / name).write_text(content.replace("[7,", '["<think>",'), encoding="utf-8")
    assert find_reasoning_marks(tmp_path) is None


def test_answers_keep_the_marks_and_no_other_special_token(
    llava_folder: Path, vlm: VisionLanguageModel
) -> None:
    # Two of the tiny model's special tokens stand for marks.
    kept = load_model(
        resolve_model(str(llava_folder)), dtype="float32", device="cpu", kept=("<image>", "<pad>")
    )
    tokenizer = kept.processor.tokenizer

    def ids(text: str) -> list[Any]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    tokens = [*ids("<image>"), *ids("hm ☕"), *ids("<pad>"), *ids("no"), *ids("</s>")]
    assert decode_answer(kept, tokens) == "<image>hm ☕<pad>no"
    assert decode_answer(vlm, tokens) == "hm ☕no"
    assert decode_answer(kept, ids("hm ☕ no</s>")) == "hm ☕ no"
