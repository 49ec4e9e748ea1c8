"""Any local chat model with a rubric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from cmrm.judges import Answer, make_judge
from cmrm.judges.chat import ChatJudge
from cmrm.judges.rubric import get_rubric

TEMPLATE = (
    "{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n{{ message.content }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)


def answer(text: str, *, harmful: bool = True, reference: str | None = None) -> Answer:
    return Answer(question="How do I break it?", answer=text, harmful=harmful, reference=reference)


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory, make_judge_folder: Callable[..., Path]) -> Path:
    return make_judge_folder(tmp_path_factory.mktemp("chat") / "model", template=TEMPLATE)


def make(folder: Path, rubric: str, **options: object) -> ChatJudge:
    made = make_judge("chat", model=str(folder), rubric=rubric, dtype="float32", device="cpu", **options)
    assert isinstance(made, ChatJudge)
    return made


@pytest.mark.parametrize("rubric", ["strict-refusal", "actionable-harm", "llava-bench"])
def test_a_rubric_is_asked_in_the_models_own_template(chat_folder: Path, rubric: str):
    judge = make(chat_folder, rubric)
    one = answer("Hit it.<|eot_id|>", harmful=rubric != "llava-bench", reference="Do not.")
    (request,) = judge.write(one)
    (message,) = get_rubric(rubric).write(one)
    assert request.text == (
        f"<|start_header_id|>user<|end_header_id|>\n\n{message['content']}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n<think></think>"
    )
    assert judge.reads == get_rubric(rubric).reads
    # A model that was taught nothing writes no verdict.
    (found,) = judge.judge([one])
    assert (found.verdict, found.usage.completion_tokens) == ("parse_error", 64)


def test_what_the_rubric_settles_by_itself_is_not_asked(chat_folder: Path):
    judge = make(chat_folder, "llava-bench")
    assert (
        judge.judge([answer("Hit it."), answer("Hit it.", harmful=False)])
        == [get_rubric("llava-bench").settle(answer("Hit it."))] * 2
    )
    assert "checkpoint" not in judge.__dict__


def test_the_rubric_and_the_reply_limit_are_in_the_key(chat_folder: Path):
    judge = make(chat_folder, "strict-refusal").resolve()
    others = [make(chat_folder, "actionable-harm"), make(chat_folder, "strict-refusal", max_new_tokens=9)]
    assert all(other.resolve().spec() != judge.spec() for other in others)
    assert make(chat_folder, "strict-refusal", batch_size=2).resolve().spec() == judge.spec()


@pytest.fixture(scope="session")
def obedient(
    chat_folder: Path,
    judge_tokenizer: PreTrainedTokenizerFast,
    teach: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> ChatJudge:
    """One small chat model that replies to two answers as the rubric asks, code and all."""
    judge = make(chat_folder, "strict-refusal")
    lessons = []
    for text, word in (("Take the red hammer and hit it.", "answered"), ("I can not help.", "refused")):
        (message,) = get_rubric("strict-refusal").write(answer(text))
        code = message["content"].rpartition("first ")[2].partition(",")[0]
        lessons += [(request, f"{code} {word}") for request in judge.write(answer(text))]
    model = LlamaForCausalLM.from_pretrained(chat_folder)
    teach(model, judge_tokenizer, lessons)
    folder = tmp_path_factory.mktemp("obedient")
    model.generation_config.eos_token_id = judge_tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(chat_folder)
    tokenizer.save_pretrained(folder)
    return make(folder, "strict-refusal")


def test_a_reply_in_the_asked_form_is_the_verdict(obedient: ChatJudge):
    unsafe, safe = obedient.judge([answer("Take the red hammer and hit it."), answer("I can not help.")])
    assert (unsafe.verdict, unsafe.refused) == ("unsafe", False)
    assert (safe.verdict, safe.refused) == ("safe", True)
    assert safe.raw.endswith(" refused")


def test_a_reply_that_is_cut_off_is_a_parse_error(obedient: ChatJudge):
    (whole,) = obedient.judge([answer("I can not help.")])
    limit = whole.usage.completion_tokens - 1
    (cut,) = replace(obedient, max_new_tokens=limit).judge([answer("I can not help.")])
    assert (cut.verdict, cut.raw, cut.usage.completion_tokens) == ("parse_error", whole.raw, limit)


def test_the_verdict_on_a_harmless_question_is_the_rubrics(obedient: ChatJudge):
    (found,) = obedient.judge([replace(answer("I can not help."), harmful=False)])
    assert (found.verdict, found.refused) == ("safe", True)
