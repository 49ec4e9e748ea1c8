"""Texts that a judge model must read and not obey: each stands in a place of its own that it cannot leave.

Three things hold whatever a text says:

* No tag or control token is inside it: a "<" or "[" that touches what follows is set apart from it, so "</answer …>",
  "<|im_end|>" or "[INST]" becomes ordinary text, for a server that would read such tokens as well.
* Nothing is inside it that a person would not see: control characters are replaced, signs without a shape dropped.
* It knows neither the tag's code nor the one that a verdict has to carry. Both are hashes of all texts shown, so the
  same row makes the same prompt again, its author cannot know them before the text is finished, and a code that
  stands in a text after all is drawn again.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

# 48 bits: not to be guessed, and short enough for a small model to copy.
CODE_LENGTH = 12

_OPENING = re.compile(r"([<\[])(?=\S)")
_KEPT_CONTROLS = frozenset("\n\t")


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """Texts in their tags, and the code that a verdict on them has to carry."""

    text: str
    code: str


def seal(parts: Mapping[str, str]) -> Sealed:
    """Put each text into a tag of its name, in order."""
    cleaned = {name: clean(text) for name, text in parts.items()}
    canonical = json.dumps(list(cleaned.items()))
    letters = "\n".join(map(_keep_letters, cleaned.values()))
    for draw in count():
        tag, code = (_make_code(f"{purpose} {draw} {canonical}") for purpose in ("tag", "code"))
        if tag not in letters and code not in letters:
            break
    places = [f"<{name} {tag}>\n{text}\n</{name} {tag}>" for name, text in cleaned.items()]
    return Sealed(text="\n\n".join(places), code=code)


def clean(text: str) -> str:
    """Set brackets apart from what follows, replace control characters, drop signs that have no shape."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return _OPENING.sub(r"\1 ", "".join(map(_show, lines)))


def keep_encodable(text: str) -> str:
    """Replace halves of surrogate pairs, which no file or request can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _show(sign: str) -> str:
    if sign in _KEPT_CONTROLS:
        return sign
    match unicodedata.category(sign):
        case "Cf":
            return ""
        case "Cc" | "Cs":
            return "\N{REPLACEMENT CHARACTER}"
        case _:
            return sign


def _keep_letters(text: str) -> str:
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def _make_code(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:CODE_LENGTH]
