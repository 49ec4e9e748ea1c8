"""Chat templates: which one a model has, how it takes a system line, and whether an image changes the text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, get_args

from jinja2 import TemplateError

from cmrm.errors import UserError
from cmrm.models.families import Family
from cmrm.models.template_files import DEFAULT, name_templates

# The date that templates print: a prompt must not depend on the time of the run. Llama's own templates default to it.
NOW = datetime(2024, 7, 26)  # noqa: DTZ001 - as it is printed, it has no zone

# How a template reads a system line: as a list of parts, like user turns, or as a string.
SystemForm = Literal["parts", "text"]
Turns = list[dict[str, Any]]
# What a template prints if it expects a string and gets a list of parts.
LIST = "[{'type'"


def choose_template(processor: Any, family: Family, *, where: str) -> str:
    """Choose the processor's own chat template, else the family's, else its tokenizer's, with a fixed date.

    `where` names the model in errors. Raises `UserError` if there is none.
    """
    # Some folders have a template in tokenizer_config.json only, which a processor does not read.
    own, tokenizers = (_read_templates(one) for one in (processor, getattr(processor, "tokenizer", None)))
    choices = (own.get(DEFAULT), family.template, tokenizers.get(DEFAULT))
    template = next((one for one in choices if one is not None), None)
    if template is None and (named := sorted({*own, *tokenizers})):
        raise UserError(
            f"model.id: {where!r} has chat templates named {', '.join(named)}, and none that is used by default. Save "
            "the one that its prompts are made with as chat_template.jinja in the folder."
        )
    if template is None:
        raise UserError(
            f"model.id: neither the processor of {where!r} nor its tokenizer has a chat template, so its prompts "
            "cannot be made as in training. Add chat_template.jinja to the folder."
        )
    return _fix_date(template)


def _read_templates(owner: Any) -> dict[str, str]:
    return name_templates(getattr(owner, "chat_template", None))


def _fix_date(template: str) -> str:
    """Prepend a macro that shadows `strftime_now`, which transformers binds to the real time."""
    if "strftime_now" not in template:
        return template
    replaced = "".join(f" | replace('%{code}', '{NOW.strftime(f'%{code}')}')" for code in "aAbBdHIjmMpSyY")
    return "{% macro strftime_now(format) %}{{ format" + replaced + " }}{% endmacro %}\n" + template


def choose_system_form(processor: Any, template: str) -> SystemForm:
    """Find out, with one prompt, in which form the template prints a system line; `parts` if in none."""
    for form in get_args(SystemForm):
        turns = make_turns(text="?", parts=(), system="?", form=form)
        try:
            text = processor.apply_chat_template(turns, chat_template=template)
        except (TemplateError, TypeError):
            continue
        if LIST not in text:
            return form
    return "parts"


def make_turns(*, text: str, parts: Sequence[dict[str, Any]], system: str | None, form: SystemForm) -> Turns:
    """Make the conversation of a prompt: a system line or none, then the user's `parts` of media, if any, and text."""
    content: list[dict[str, Any]] = [*parts, {"type": "text", "text": text}]
    turns: Turns = [{"role": "user", "content": content}]
    if system is not None:
        line = system if form == "text" else [{"type": "text", "text": system}]
        turns.insert(0, {"role": "system", "content": line})
    return turns


def check_prompt_pair(
    processor: Any, template: str, pair: Sequence[Turns], *, system: str | None, who: str
) -> None:
    """Check that an image prompt and a text prompt both hold the system line, and differ by the image alone.

    `pair` holds the two, in this order; `who` names the model's type. Raises `UserError` saying what to change.
    """
    who = f"the chat template of this {who} model"
    shown, alone = _apply(processor, template, pair, system=system, who=who)
    if not _only_adds(shown, alone):
        raise UserError(
            f"model.system: {who} prints {shown!r} with an image and {alone!r} without, so the shift between them "
            "would not be that of the image alone. If the template adds a system line of its own to one of them, set "
            "model.system, which replaces it."
        )


def check_text_prompt(processor: Any, template: str, turns: Turns, *, system: str | None, who: str) -> None:
    """Check that a text-only model's prompt holds the system line; raises `UserError` as `check_prompt_pair` does."""
    _apply(processor, template, [turns], system=system, who=f"the chat template of this {who} model")


def _apply(
    processor: Any, template: str, turns: Sequence[Turns], *, system: str | None, who: str
) -> list[str]:
    """Apply a template to prompts, which must all hold the system line."""
    try:
        texts: list[str] = processor.apply_chat_template(
            list(turns), chat_template=template, add_generation_prompt=True
        )
    except (TemplateError, TypeError) as error:
        what, field = ("a prompt", "model.id") if system is None else ("a system line", "model.system")
        raise UserError(
            f"{field}: {who} refuses {what} ({error}). Give the model's folder a template that takes it, with an image "
            "and without, or leave model.system out if it is given."
        ) from None
    if any(LIST in text for text in texts):
        raise UserError(
            f"model.id: {who} is for text-only models: it prints the parts of a prompt as {texts[-1]!r}. Give the "
            "model's folder a template that iterates over the parts of a message."
        )
    # Templates strip the system line.
    if any((system or "").strip() not in text for text in texts):
        raise UserError(
            f"model.system: {who} leaves the system line out, so the model would never see it. Leave model.system out, "
            "or give the model's folder a template that prints it."
        )
    return texts


def _only_adds(longer: str, shorter: str) -> bool:
    """Whether the longer text is the shorter with one piece inserted; whitespace does not count."""
    longer, shorter = "".join(longer.split()), "".join(shorter.split())
    pairs = zip(longer, shorter, strict=False)
    alike = next((index for index, (one, other) in enumerate(pairs) if one != other), len(shorter))
    return len(longer) > len(shorter) and longer.endswith(shorter[alike:])
