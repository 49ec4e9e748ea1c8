"""Chat templates: both arms alike, system lines shown or refused, the same prompt on every day."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from cmrm.errors import UserError
from cmrm.models.vlm import VisionLanguageModel, prepare_model, render
from cmrm.prompts.conditions import Prompt
from tests.conformance.asking import SHOWN, TEXT, text_of
from tests.conformance.builders import BUILDERS, NEED_TORCHVISION
from tests.conformance.loading import Load

SYSTEM = Prompt(text="what?", system="Be kind.")
# Of those that need no torchvision: their templates print turns of the user alone.
WITHOUT_SYSTEM = {"chameleon", "paligemma"}
TURNS = (
    "{% for message in messages %}{{ message.role }}: {% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}{% if part.type == 'image' %}<image>{% else %}{{ part.text }}"
    "{% endif %}{% endfor %}{% endif %}\n{% endfor %}"
)


def with_template(vlm: VisionLanguageModel, template: str | None) -> VisionLanguageModel:
    """The same model prepared with another template, by a processor that shares all else."""
    processor = SimpleNamespace(**vars(vlm.processor))
    processor.chat_template = template
    processor.apply_chat_template = vlm.processor.apply_chat_template
    return prepare_model(vlm.model, processor, where="tiny")


def test_both_arms_of_paligemma_have_its_documented_form(tiny: Load) -> None:
    vlm = tiny("paligemma")
    assert text_of(vlm, TEXT[0]) == "<bos>what is it?\n"
    assert text_of(vlm, SHOWN[0]) == "<image>" * 16 + "<bos>what is it?\n"


def test_a_template_of_the_processor_goes_before_that_of_the_family(tiny: Load) -> None:
    own = (
        "{% for message in messages %}{% for part in message.content %}{% if part.type == 'image' %}<image>"
        "{% else %}answer {{ part.text }}{% endif %}{% endfor %}{% endfor %}"
    )
    assert text_of(with_template(tiny("paligemma"), own), TEXT[0]) == "<bos>answer what is it?\n"


def test_a_template_that_only_the_tokenizer_has_is_used(tiny: Load) -> None:
    vlm = tiny("llava")
    assert vlm.processor.tokenizer.chat_template
    assert text_of(with_template(vlm, None), TEXT[0]) == text_of(vlm, TEXT[0])


def test_a_processor_and_tokenizer_without_a_template_are_an_error(
    tiny: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = tiny("llava")
    monkeypatch.setattr(vlm.processor.tokenizer, "chat_template", None)
    with pytest.raises(UserError, match=r"has a chat template, so .*chat_template\.jinja"):
        with_template(vlm, None)


@pytest.mark.parametrize("name", sorted(set(BUILDERS) - NEED_TORCHVISION - WITHOUT_SYSTEM))
def test_a_system_line_is_shown_in_both_arms(tiny: Load, name: str) -> None:
    for prompt in (SYSTEM, replace(SYSTEM, image=SHOWN[0].image)):
        assert "Be kind." in text_of(tiny(name), prompt)


@pytest.mark.parametrize("name", sorted(WITHOUT_SYSTEM))
def test_a_system_line_that_the_template_leaves_out_is_an_error(tiny: Load, name: str) -> None:
    with pytest.raises(UserError, match=rf"model\.system: .* {name} model leaves the system line out"):
        render(tiny(name), [TEXT[0], SYSTEM])


def test_a_system_line_that_the_template_refuses_is_an_error(tiny: Load) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no such role') }}{% endif %}" + TURNS
    vlm = with_template(tiny("llava"), refusing)
    assert "what is it?" in text_of(vlm, TEXT[0])
    with pytest.raises(
        UserError, match=r"model\.system: .* llava model refuses a system line \(no such role\)"
    ):
        render(vlm, [SYSTEM])


@pytest.mark.parametrize(
    "printed",
    [
        "{{ messages[0].content | trim }}",
        "{{ 'S: ' + messages[0].content }}",
        "{{ messages[0].content.strip() }}",
    ],
)
def test_a_template_that_wants_the_system_line_as_a_text_is_given_one(tiny: Load, printed: str) -> None:
    """As the first templates of Llama 3.2 Vision, which print a list of parts in the way of Python."""
    first = "{% if messages[0].role == 'system' %}" + printed + "{% set messages = messages[1:] %}{% endif %}"
    text = text_of(with_template(tiny("llava"), first + TURNS), SYSTEM)
    assert "Be kind." in text
    assert "type" not in text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{{ messages[0].content }}",
            r"model\.id: .* llava model is for text-only models: .*\[\{'type': 'text'",
        ),
        (
            "{{ 'USER: ' + messages[0].content }}",
            r"model\.id: .* refuses a prompt \(can only concatenate str",
        ),
        ("{% for", r"model\.id: .* refuses a prompt \("),
    ],
)
def test_a_template_that_is_none_for_prompts_with_parts_is_an_error(
    tiny: Load, template: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        render(with_template(tiny("llava"), template), TEXT)


def test_a_template_that_treats_the_arms_unlike_is_an_error_unless_there_is_a_system_line(tiny: Load) -> None:
    vlm = tiny("mllama")
    untold = replace(vlm, family=replace(vlm.family, system=None))
    for prompts in (TEXT, SHOWN):
        with pytest.raises(UserError, match=r"model\.system: .* set model\.system, which replaces it"):
            render(untold, prompts)
    assert "Be kind." in text_of(untold, SYSTEM)


def test_the_row_of_mllama_lets_both_arms_have_its_header(tiny: Load) -> None:
    header = "system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
    assert all(header in text_of(tiny("mllama"), prompt) for prompt in (TEXT[0], SHOWN[0]))


@pytest.mark.parametrize(
    "start", ["", "\n", "  ", "{%- if true %} {% endif %}", "  {% if true %}\n{% endif %}"]
)
def test_a_template_that_asks_for_the_date_is_given_the_same_one_each_day(tiny: Load, start: str) -> None:
    asking = start + "{% set today = strftime_now('%d %B %Y, %A') %}on {{ today }} " + TURNS
    fixed = start + "{% set today = '26 July 2024, Friday' %}on {{ today }} " + TURNS
    found, expected = (text_of(with_template(tiny("llava"), one), TEXT[0]) for one in (asking, fixed))
    assert "on 26 July 2024, Friday" in found
    assert found == expected
