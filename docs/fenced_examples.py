"""An extension of griffe, which reads the docstrings of the API page: examples with `>>>` become blocks of code.

Without a fence, Markdown reads the list that an example prints as a link.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

# From a prompt to the next blank line.
EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)


def fence_examples(text: str) -> str:
    """Put a fence around each example of a docstring."""
    return EXAMPLE.sub(lambda match: f"```pycon\n{match[0]}\n```", text)


class FencedExamples(griffe.Extension):
    """Fences the examples of every object that griffe reads."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object, if it has one."""
        if obj.docstring is not None:
            obj.docstring.value = fence_examples(obj.docstring.value)
