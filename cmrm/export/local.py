"""Ask a canary's prompts of a model in this process."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image

from cmrm.errors import UserError
from cmrm.export.canary import CanaryPrompt
from cmrm.export.served import Served
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt
from cmrm.untrusted.printable import first_line

PREFIX = "data:image/png;base64,"
# Pixels of a canary's image.
MOST_PIXELS = 2**22


@torch.inference_mode()
def answer_locally(vlm: VisionLanguageModel, prompt: CanaryPrompt, *, max_tokens: int) -> Served:
    """Answer a canary's prompt greedily, with the folder's own template, by at most `max_tokens` tokens."""
    inputs = render(vlm, [restore_prompt(prompt)])
    asked = inputs["input_ids"][0].tolist()
    made = vlm.model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
    tokens = made[0, len(asked) :].tolist()
    return Served(
        text=str(vlm.processor.tokenizer.decode(tokens, skip_special_tokens=True)),
        tokens=tuple(tokens),
        prompt_ids=tuple(asked),
    )


def restore_prompt(prompt: CanaryPrompt) -> Prompt:
    """Make the prompt of a canary's messages; raises `UserError` for messages or an image of another shape."""
    system: str | None = None
    text: str | None = None
    image: Image.Image | None = None
    for message in prompt.messages:
        match message:
            case {"role": "system", "content": str(line)}:
                system = line
            case {"role": "user", "content": str(words)}:
                text = words
            case {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": str(url)}},
                    {"type": "text", "text": str(words)},
                ],
            }:
                text, image = words, _decode(url)
            case _:
                raise UserError("canary: a message is of another shape; export again.")
    if text is None:
        raise UserError("canary: a prompt has no user turn; export again.")
    return Prompt(text=text, image=image, system=system)


def _decode(url: str) -> Image.Image:
    try:
        if not url.startswith(PREFIX):
            raise ValueError("it is no PNG in base64")
        data = base64.b64decode(url.removeprefix(PREFIX), validate=True)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError("it is too large")
            return image.convert("RGB")
    except Exception as error:  # noqa: BLE001 - on damaged bytes Pillow's decoders raise nearly any exception
        raise UserError(f"canary: an image cannot be read ({first_line(error)}); export again.") from None


def describe_prompt(messages: tuple[Mapping[str, Any], ...]) -> tuple[str, bool]:
    """Get the question of a canary's messages, and whether it comes with an image."""
    for message in messages:
        content = message.get("content")
        if message.get("role") == "user" and isinstance(content, str):
            return content, False
        if message.get("role") == "user" and isinstance(content, list):
            words = [str(part.get("text", "")) for part in content if isinstance(part, Mapping)]
            return " ".join(filter(None, words)), True
    return "", False
