"""What stands in a judged text and must not steer the judge: control tokens, and the marks of its prompt's form.

A text is changed only where such a mark stands in it: a space is put behind the mark's first sign, "<|eot_id|>"
becomes "< |eot_id|>". That is done to the text and not to its tokens (transformers can encode control tokens as
ordinary text), because the marks of some forms, "[/INST]" for Llama 2, are no tokens at all, and because processors
look for the placeholders of images in the text. What is to be read stays readable, for the judge and in its prompt.

What no such change can prevent: an answer that forges the form's plain words ("AI assistant:"), or talks a judge over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# How a vocabulary of sentencepiece writes a blank.
BLANK = "\N{LOWER ONE EIGHTH BLOCK}"


class UnjudgeableError(ValueError):
    """An answer that cannot be put before a judge: the message says why, and becomes the verdict's raw text."""


@dataclass(frozen=True, kw_only=True)
class Controls:
    """The marks that no judged text may hold, and the ids of the tokens among them."""

    tokenizer: Any
    marks: re.Pattern[str]
    ids: frozenset[int]

    def defuse(self, text: str) -> str:
        """Break every mark in a text; raises `UnjudgeableError` where the tokenizer still reads a control token."""
        # Halves of surrogate pairs are no text that a tokenizer takes.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        # A broken mark could complete another one.
        while self.marks.search(text):
            text = self.marks.sub(_break, text)
        # Some tokenizers normalise a text before they look for tokens in it.
        if not self.ids.isdisjoint(self.tokenizer(text, add_special_tokens=False)["input_ids"]):
            raise UnjudgeableError(
                "the text holds a control token of the judge's model that could not be broken"
            )
        return text


def find_controls(tokenizer: Any, marks: Iterable[str] = ()) -> Controls:
    """Find the control tokens of a tokenizer; `marks` are those of the prompt's form.

    They are its special tokens, and added tokens that begin with a sign: "<start_of_turn>" is not special everywhere.
    """
    added = {
        number: token.content
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special or _begins_with_sign(token.content)
    }
    special = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    tokens = {**added, **special}
    # An unknown sign in an answer is no control token.
    tokens.pop(tokenizer.unk_token_id, None)
    texts = sorted({text for text in (*tokens.values(), *marks) if text.strip()}, key=len, reverse=True)
    pattern = "|".join(map(re.escape, texts)) or r"(?!)"
    return Controls(tokenizer=tokenizer, marks=re.compile(pattern), ids=frozenset(tokens))


def _begins_with_sign(token: str) -> bool:
    # Gemma 2 and 3 have added tokens of blanks alone, written as their vocabulary writes them: every indent is one.
    visible = token.replace(BLANK, " ").strip()
    return bool(visible) and not visible[0].isalnum()


def _break(mark: re.Match[str]) -> str:
    first, rest = mark[0][0], mark[0][1:]
    return f"{first} {rest}" if rest else "\N{REPLACEMENT CHARACTER}"
