"""An Inspect conversation as a question of cmrm: a system line, and one user turn with at most one image."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from inspect_ai.model import (
    ChatMessage,
    ChatMessageSystem,
    ChatMessageUser,
    Content,
    ContentImage,
    ContentText,
)
from PIL.Image import Image

from cmrm.errors import UserError
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.images import read_image
from cmrm.untrusted.printable import show

# Inspect reads files and URLs of data sets itself, and gives models what they hold.
DATA_URI = re.compile(r"data:[^,]{0,200};base64,")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A conversation as one question; `image` is a data URI."""

    text: str
    image: str | None
    system: str | None

    def open(self, system: str | None) -> Prompt:
        """Open the image and make the prompt, for a model with a system line of its own or none.

        Raises `UserError` for an image that cannot be read, and for two system lines that differ.
        """
        if self.system is not None and system is not None and self.system != system:
            raise UserError(
                "the task gives a system message and the arm has a system line of its own; leave one of them out."
            )
        image = None if self.image is None else open_data(self.image)
        return Prompt(text=self.text, image=image, system=system if self.system is None else self.system)


def read_messages(messages: Sequence[ChatMessage]) -> Asked:
    """Read a conversation; raises `UserError`, with what to do, for what a model of cmrm is not asked."""
    first = [one for one in messages if isinstance(one, ChatMessageSystem)]
    rest = messages[len(first) :]
    if list(messages[: len(first)]) != first or len(first) > 1:
        raise UserError(
            "messages: a system message stands behind another message; give one, at the beginning."
        )
    if len(rest) != 1 or not isinstance(rest[0], ChatMessageUser):
        roles = ", ".join(one.role for one in rest) or "none"
        raise UserError(
            f"messages: cmrm asks one user turn, and the conversation has {roles} (besides a system message); use a "
            "solver that asks one question, such as generate(), and no few-shot or self-critique turns."
        )
    text, image = _read_content(rest[0].content)
    system = None
    if first:
        system, shown = _read_content(first[0].content)
        if shown is not None:
            raise UserError("messages: the system message has an image; put it into the user's.")
    return Asked(text=text, image=image, system=system)


def _read_content(content: str | list[Content]) -> tuple[str, str | None]:
    if isinstance(content, str):
        return content, None
    texts: list[str] = []
    images: list[tuple[int, str]] = []
    for one in content:
        if isinstance(one, ContentText):
            texts.append(one.text)
        elif isinstance(one, ContentImage):
            images.append((len(texts), one.image))
        else:
            raise UserError(
                f"messages: the user's message has content of type {one.type}; cmrm's models take text and an image."
            )
    if len(images) > 1:
        raise UserError(
            f"messages: the user's message has {len(images)} images, and cmrm asks about one; leave the others out, or "
            "put them side by side in one image."
        )
    if images and images[0][0] not in (0, len(texts)):
        raise UserError(
            "messages: the image stands between two texts, and cmrm's prompts begin with it; put it before the text."
        )
    return "\n".join(texts), images[0][1] if images else None


def open_data(uri: str) -> Image:
    """Open the image of a data URI as untrusted input; raises `UserError`."""
    head = DATA_URI.match(uri)
    if head is None:
        raise UserError(
            f"the image {show(uri[:80])} is no data URI; Inspect makes one of a path or URL in a data set, and "
            "materialize_media of one that code makes."
        )
    try:
        data = base64.b64decode(uri[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"the image's data URI is no base64 ({error}).") from None
    return read_image(data, where="the image of the data URI")
