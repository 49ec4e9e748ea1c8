"""The image of an Inspect sample, as a run would open it."""

from __future__ import annotations

from collections.abc import Sequence

from inspect_ai.model import ChatMessage, ContentImage
from PIL import Image

from cmrm.errors import UserError
from flows.inspect.messages import open_data


def find_image(messages: str | Sequence[ChatMessage]) -> Image.Image | None:
    """Open the first image of a sample's input, None without one; raises `UserError` if the input no longer holds it.

    Inspect has read files and URLs by the time a sample is scored; a log may hold only their names.
    """
    contents = [] if isinstance(messages, str) else [message.content for message in messages]
    images = [part for content in contents for part in content if isinstance(part, ContentImage)]
    if not images:
        return None
    if not images[0].image.startswith("data:"):
        raise UserError(
            "the sample's image is not in the log, and this judge looks at it; evaluate with --log-images, or score "
            "while evaluating."
        )
    return open_data(images[0].image)
