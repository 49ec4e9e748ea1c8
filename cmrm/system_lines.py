"""System lines that go by a name: those with which LLaVA's own conversation templates begin."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from cmrm.errors import UserError

# conv_llava_v1 and conv_vicuna_v1 of LLaVA's llava/conversation.py; with the second LLaVA-1.5 was trained.
SYSTEM_LINES: Mapping[str, str] = MappingProxyType(
    {
        "llava-v1": (
            "A chat between a curious human and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the human's questions."
        ),
        "vicuna-v1": (
            "A chat between a curious user and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the user's questions."
        ),
    }
)
# A sentence of one word ends with a point, and many languages write no spaces.
NAME = re.compile(r"[A-Za-z0-9_.-]*[A-Za-z0-9_]")


def read_system_line(given: str) -> str:
    """The line that a name stands for, or the line itself; `UserError` for what looks like a name and is none."""
    if given not in SYSTEM_LINES and NAME.fullmatch(given):
        raise UserError(
            f"no system line is called {given!r}; known are {', '.join(SYSTEM_LINES)}. A line of your own is taken "
            "as it is, and has more than one word"
        )
    return SYSTEM_LINES.get(given, given)
