"""The parts of Δ: positions, marks and image, each the difference between two conditions. Importable without torch.

With `gap` a text prompt that leaves an image's positions empty, and `marks` one that also holds what the template puts
around the image:

    Δ = state(image) − state(text)
      = [state(gap) − state(text)] + [state(marks) − state(gap)] + [state(image) − state(marks)]

The parts are called positions, marks and image. They add up by construction, whatever the model computes.
"""

from __future__ import annotations

# In the order in which they are added to a text prompt.
PARTS: tuple[str, ...] = ("positions", "marks", "image")
# As many tokens as the image has: no part of Δ, but what it is compared with.
COMPARED = "filler"


def list_chain(image: str) -> tuple[str, ...]:
    """List the conditions from text to a meaningless image; each part is the difference between two neighbours."""
    return ("query", "gap", "marks", image)


def pair_conditions(part: str, image: str) -> tuple[str, str]:
    """The conditions whose states' difference is a part of Δ: the later one, and the one that is subtracted."""
    chain = list_chain(image)
    if part == "all":
        return chain[-1], chain[0]
    place = PARTS.index(part)
    return chain[place + 1], chain[place]
