"""Chat templates: which one a model has, how it takes a system line, and whether it treats both arms alike."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, get_args

from jinja2 import TemplateError

from cmrm.errors import UserError
from cmrm.families import Family

# What templates print as the time of day and year: a prompt must be the same at any. Llama's own templates fall back
# on this date.
NOW = datetime(2024, 7, 26)  # noqa: DTZ001 - as it is printed, it has no zone

# How a template reads a system line: as a list of parts, as user turns are, or as a text alone.
SystemForm = Literal["parts", "text"]
Turns = list[dict[str, Any]]
# What a template prints that takes a list of parts for a text.
LIST = "[{'type'"


def choose_template(processor: Any, family: Family, *, where: str) -> str:
    """The processor's own chat template, else the family's, with its clock stopped; `where` names the model in errors.

    Raises `UserError` where there is neither.
    """
    own = getattr(processor, "chat_template", None)
    if isinstance(own, dict):
        own = own.get("default")
    template = own if own is not None else family.template
    if template is None:
        raise UserError(
            f"model.id: the processor of {where!r} has no chat template, so its prompts cannot be made as in training. "
            "Add chat_template.jinja to the folder."
        )
    return _stop_clock(str(template))


def _stop_clock(template: str) -> str:
    """Put a function of that name before a template that asks what time it is, since it is given the real one."""
    if "strftime_now" not in template:
        return template
    replaced = "".join(f" | replace('%{code}', '{NOW.strftime(f'%{code}')}')" for code in "aAbBdHIjmMpSyY")
    return "{% macro strftime_now(format) %}{{ format" + replaced + " }}{% endmacro %}\n" + template


def choose_system_form(processor: Any, template: str) -> SystemForm:
    """Find out, with one prompt, in which form the template prints a system line; `parts` where it does in none."""
    for form in get_args(SystemForm):
        turns = make_turns(text="?", image=None, system="?", form=form)
        try:
            text = processor.apply_chat_template(turns, chat_template=template)
        except (TemplateError, TypeError):
            continue
        if LIST not in text:
            return form
    return "parts"


def make_turns(*, text: str, image: Any | None, system: str | None, form: SystemForm) -> Turns:
    """The conversation that a prompt stands for: a system line or none, then the user's image, if any, and text."""
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if image is not None:
        content.insert(0, {"type": "image", "image": image})
    turns: Turns = [{"role": "user", "content": content}]
    if system is not None:
        line = system if form == "text" else [{"type": "text", "text": system}]
        turns.insert(0, {"role": "system", "content": line})
    return turns


def check_arms(processor: Any, template: str, arms: Sequence[Turns], *, system: str | None, who: str) -> None:
    """Print one prompt with an image and without: both must hold the system line, and differ by the image alone.

    `arms` are the two, in this order; `who` names the model's type. Raises `UserError` saying what to change.
    """
    who = f"the chat template of this {who} model"
    try:
        shown, alone = processor.apply_chat_template(
            list(arms), chat_template=template, add_generation_prompt=True
        )
    except (TemplateError, TypeError) as error:
        what, field = ("a prompt", "model.id") if system is None else ("a system line", "model.system")
        raise UserError(
            f"{field}: {who} refuses {what} ({error}). Give the model's folder a template that takes it, with an image "
            "and without, or leave model.system out if it is given."
        ) from None
    if LIST in shown + alone:
        raise UserError(
            f"model.id: {who} is one for texts: it prints what a prompt consists of as {alone!r}. Give the model's "
            "folder a template that goes through the parts of a message."
        )
    # Templates trim what they print.
    if any((system or "").strip() not in text for text in (shown, alone)):
        raise UserError(
            f"model.system: {who} leaves the system line out, so the model would never see it. Leave model.system out, "
            "or give the model's folder a template that prints it."
        )
    if not _only_adds(shown, alone):
        raise UserError(
            f"model.system: {who} prints {shown!r} with an image and {alone!r} without, so what is measured between "
            "them would not be the image's. A template that puts a system line of its own into one of them alone "
            "leaves it out where model.system gives one."
        )


def _only_adds(longer: str, shorter: str) -> bool:
    """Whether the longer text is the shorter with one piece put in; spaces and line breaks do not count."""
    longer, shorter = "".join(longer.split()), "".join(shorter.split())
    pairs = zip(longer, shorter, strict=False)
    alike = next((place for place, (one, other) in enumerate(pairs) if one != other), len(shorter))
    return len(longer) > len(shorter) and longer.endswith(shorter[alike:])
