"""Prompt fence: untrusted text in tags that it cannot close, against prompt injection of a judge model.

Three properties hold whatever a text says:

* It contains no tag or control token: a space is inserted after a "<" or "[" that touches the next character, so
  "</answer …>", "<|im_end|>" or "[INST]" becomes ordinary text, also for a server that would parse such tokens.
* It contains nothing invisible: control characters are replaced, format characters (zero width, bidi) are dropped.
* It contains neither the tag's code nor the code that a verdict must carry. Both are hashes of all texts shown, so the
  same row gives the same prompt, an author cannot know them in advance, and a code that occurs in a text is drawn
  again.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

# 48 bits: not guessable, and short enough for a small model to copy.
CODE_LENGTH = 12

_OPENING = re.compile(r"([<\[])(?=\S)")
_KEPT_CONTROLS = frozenset("\n\t")


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """Fenced texts in their tags, and the code that a verdict on them must carry."""

    text: str
    code: str


def seal(parts: Mapping[str, str]) -> Sealed:
    """Fence each text in a tag of its name, in order."""
    cleaned = {name: clean(text) for name, text in parts.items()}
    canonical = json.dumps(list(cleaned.items()))
    letters = "\n".join(map(_keep_letters, cleaned.values()))
    for draw in count():
        tag, code = (_make_code(f"{purpose} {draw} {canonical}") for purpose in ("tag", "code"))
        if tag not in letters and code not in letters:
            break
    fenced = [f"<{name} {tag}>\n{text}\n</{name} {tag}>" for name, text in cleaned.items()]
    return Sealed(text="\n\n".join(fenced), code=code)


def clean(text: str) -> str:
    """Insert a space after opening brackets, replace control characters, drop format characters."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return _OPENING.sub(r"\1 ", "".join(map(_show, lines)))


def keep_encodable(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _show(character: str) -> str:
    if character in _KEPT_CONTROLS:
        return character
    match unicodedata.category(character):
        case "Cf":
            return ""
        case "Cc" | "Cs":
            return "\N{REPLACEMENT CHARACTER}"
        case _:
            return character


def _keep_letters(text: str) -> str:
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def _make_code(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:CODE_LENGTH]
