"""A question of lmms-eval as a prompt: one user turn with at most one image, ahead of the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image

from cmrm.errors import UserError
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.images import make_upright, open_image
from cmrm.prompts.meaningless_images import WHITE

Layout = Literal["as_asked", "image_first"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)


@dataclass(kw_only=True)
class _Parts:
    """What the messages hold, in their order."""

    system: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    images: list[Any] = field(default_factory=list)
    # Whether text came before an image.
    late_image: bool = False


def read_prompt(
    messages: Sequence[Mapping[str, Any]], *, layout: Layout, system: str | None, where: str
) -> Prompt:
    """Make the prompt of a question's chat messages.

    An image is a PIL image or the path of a file. `system` is the arm's system line, or None. With the layout
    `image_first`, several images are put side by side into one, on white, and the image goes ahead of the text, whose
    pieces are joined by spaces, as LLaVA's chat template does; with `as_asked` such a question is refused.
    Raises `UserError`, naming `where`, for that, for video, audio and turns of the assistant, for two system lines that
    differ, and for an image that cannot be read.
    """
    parts = _take_apart(messages, where)
    if len(parts.images) > 1 and layout == "as_asked":
        raise UserError(
            f"{where} has {len(parts.images)} images, and cmrm shows one; layout=image_first among the model_args puts "
            "them side by side into one, ahead of the text."
        )
    if parts.late_image and layout == "as_asked":
        raise UserError(
            f"{where} has text ahead of its image, and cmrm shows the image first; layout=image_first among the "
            "model_args moves it, which changes nothing for LLaVA: its chat template does the same."
        )
    own = "\n".join(parts.system) or None
    if None not in (own, system) and own != system:
        raise UserError(
            f"{where} has a system message, and the arm a system line of its own; leave one of them out."
        )
    images = [_open(one, where) for one in parts.images]
    return Prompt(
        text=" ".join(parts.texts),
        image=None if not images else images[0] if len(images) == 1 else _put_side_by_side(images),
        system=system if own is None else own,
    )


def _take_apart(messages: Sequence[Mapping[str, Any]], where: str) -> _Parts:
    parts = _Parts()
    for message in messages:
        role, content = message.get("role"), message.get("content", ())
        if role not in ("system", "user"):
            raise UserError(
                f"{where} has a turn of the {role}, and cmrm takes one turn of the user; set num_fewshot to 0, or "
                "choose a task without a conversation."
            )
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            _take(part, parts, role, where)
    if sum(message.get("role") == "user" for message in messages) != 1:
        raise UserError(f"{where} has not one turn of the user; cmrm takes one.")
    return parts


def _take(part: Mapping[str, Any], parts: _Parts, role: str, where: str) -> None:
    kind = part.get("type")
    if kind == "text" and role == "system":
        parts.system.append(part["text"])
    elif kind == "text":
        parts.texts += [part["text"]] if part["text"] else []
    elif kind == "image" and role == "user":
        parts.late_image |= bool(parts.texts)
        parts.images.append(part.get("url"))
    else:
        raise UserError(
            f"{where} has {kind} in the turn of the {role}, which cmrm does not read; choose tasks of images and text."
        )


def _open(image: Any, where: str) -> Image.Image:
    if isinstance(image, Image.Image):
        return make_upright(image, who=f"the image of {where}")
    if isinstance(image, str | Path):
        path = Path(image)
        return open_image(path.parent, path.name)
    raise UserError(
        f"{where} has an image of the type {type(image).__name__}; cmrm reads PIL images and paths of files."
    )


def _put_side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """One row of images, at their own sizes, from the top."""
    row = Image.new("RGB", (sum(one.width for one in images), max(one.height for one in images)), WHITE)
    left = 0
    for one in images:
        row.paste(one, (left, 0))
        left += one.width
    return row
