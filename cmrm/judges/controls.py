"""Escape control tokens and prompt format markers in judged text, against prompt injection of a local judge.

A text is changed only where it contains such a marker: a space is inserted after the marker's first character, so
"<|eot_id|>" becomes "< |eot_id|>". The text is escaped and not its tokens (transformers can encode control tokens as
ordinary text), because some markers, "[/INST]" for Llama 2, are not tokens, and because processors search the text for
image placeholders. The text stays readable, for the judge and in its prompt.

Escaping cannot prevent an answer that forges the format's plain words ("AI assistant:"), or persuades the judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# How a sentencepiece vocabulary writes a space.
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


class UnjudgeableError(ValueError):
    """An answer that cannot be rendered into the judge's prompt; the message becomes the verdict's raw text."""


@dataclass(frozen=True, kw_only=True)
class Controls:
    """The markers to escape in judged text, and the token ids of those that are tokens."""

    tokenizer: Any
    marks: re.Pattern[str]
    ids: frozenset[int]

    def defuse(self, text: str) -> str:
        """Escape every marker in a text; raise `UnjudgeableError` if the tokenizer still finds a control token."""
        # Tokenizers reject lone surrogates.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        # An escaped marker could complete another one.
        while self.marks.search(text):
            text = self.marks.sub(_escape, text)
        # Some tokenizers normalise the text before they match tokens.
        if not self.ids.isdisjoint(self.tokenizer(text, add_special_tokens=False)["input_ids"]):
            raise UnjudgeableError(
                "the text holds a control token of the judge's model that could not be broken"
            )
        return text


def find_controls(tokenizer: Any, marks: Iterable[str] = ()) -> Controls:
    """Find the control tokens of a tokenizer, in addition to the prompt format's own markers, `marks`.

    They are its special tokens, and added tokens that begin with punctuation: "<start_of_turn>" is not always special.
    """
    added = {
        number: token.content
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special or _begins_with_punctuation(token.content)
    }
    special = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    tokens = {**added, **special}
    # The unknown token is not a control token.
    tokens.pop(tokenizer.unk_token_id, None)
    texts = sorted({text for text in (*tokens.values(), *marks) if text.strip()}, key=len, reverse=True)
    pattern = "|".join(map(re.escape, texts)) or r"(?!)"
    return Controls(tokenizer=tokenizer, marks=re.compile(pattern), ids=frozenset(tokens))


def _begins_with_punctuation(token: str) -> bool:
    # Gemma 2 and 3 have added tokens of spaces alone, in their vocabulary's spelling: every indent is one.
    visible = token.replace(SPACE, " ").strip()
    return bool(visible) and not visible[0].isalnum()


def _escape(mark: re.Match[str]) -> str:
    first, rest = mark[0][0], mark[0][1:]
    return f"{first} {rest}" if rest else "\N{REPLACEMENT CHARACTER}"
