"""Named system prompts: those of LLaVA's own conversation templates."""

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
# Names only: a sentence of one word ends with a full stop, and some languages have no spaces.
NAME = re.compile(r"[A-Za-z0-9_.-]*[A-Za-z0-9_]")


def read_system_line(given: str) -> str:
    """Look up a system line by name, or return the line itself; `UserError` for an unknown name."""
    if given not in SYSTEM_LINES and NAME.fullmatch(given):
        raise UserError(
            f"no system line is called {given!r}; known are {', '.join(SYSTEM_LINES)}. A line of your own is used as "
            "it is, and has more than one word"
        )
    return SYSTEM_LINES.get(given, given)
