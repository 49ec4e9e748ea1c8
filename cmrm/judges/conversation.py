"""Render judge prompts with the model's chat template, and verify that it shows every turn in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from cmrm.errors import UserError
from cmrm.judges.asking import Request
from cmrm.judges.checkpoint import Checkpoint
from cmrm.judges.controls import UnjudgeableError

if TYPE_CHECKING:
    from PIL import Image

# Probe text to look for in a rendered prompt: no template contains, trims or escapes it.
PROBE = "qpwoeirutyalsk"


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn of a conversation: `role` is system, user or assistant."""

    role: str
    text: str


def write_conversation(
    checkpoint: Checkpoint,
    turns: Sequence[Turn],
    *,
    image: Image.Image | None = None,
    **variables: Any,
) -> Request:
    """Render turns with a generation prompt, an image with the first user turn; `variables` go to the template.

    Control tokens in the texts are escaped. Raises `UserError` if the template cannot render such turns, and
    `UnjudgeableError` if it leaves out text of these.
    """
    parts = _choose_form(checkpoint, [turn.role for turn in turns], pictured=image is not None, **variables)
    defused = [Turn(role=turn.role, text=checkpoint.controls.defuse(turn.text)) for turn in turns]
    text = _render(checkpoint, defused, parts=parts, pictured=image is not None, **variables)
    if not all(turn.text.strip() in text for turn in defused):
        raise UnjudgeableError("the chat template of the judge's model does not show the whole text")
    return Request(text=text, image=image)


def _choose_form(checkpoint: Checkpoint, roles: Sequence[str], *, pictured: bool, **variables: Any) -> bool:
    """Whether the template takes a turn's content as a list of parts or as a string; some take both."""
    turns = [Turn(role=role, text=f"{PROBE}{number}") for number, role in enumerate(roles)]
    reason = "it leaves out what was said"
    for parts in (False, True):
        if pictured and not parts:
            continue
        try:
            text = _render(checkpoint, turns, parts=parts, pictured=pictured, **variables)
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            continue
        # A template that prints the list itself shows its quotes.
        shown = all(text.count(turn.text) == 1 and f"'{turn.text}'" not in text for turn in turns)
        if shown and (not pictured or text.count(_image_token(checkpoint)) == 1):
            return parts
    seen = "a conversation with an image" if pictured else "a conversation"
    raise UserError(
        f"the chat template of the model's folder cannot show {seen} of {', then '.join(roles)}: {reason}. "
        "Give a model with a chat template for it."
    )


def _render(
    checkpoint: Checkpoint, turns: Sequence[Turn], *, parts: bool, pictured: bool, **variables: Any
) -> str:
    reader = checkpoint.processor
    if reader is None or getattr(reader, "chat_template", None) is None:
        reader = checkpoint.tokenizer
    messages: list[dict[str, Any]] = []
    shown = pictured
    for turn in turns:
        content: list[dict[str, Any]] = [{"type": "text", "text": turn.text}]
        if shown and turn.role == "user":
            content.insert(0, {"type": "image"})
            shown = False
        messages.append({"role": turn.role, "content": content if parts else turn.text})
    rendered = reader.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **variables)
    return str(rendered)


def _image_token(checkpoint: Checkpoint) -> str:
    token = getattr(checkpoint.processor, "image_token", None)
    return token if isinstance(token, str) else "<image>"
