"""Normalise text for rule-based judges: plain characters, expanded contractions, words and sentence ends only."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Sentence ends are kept as a word, so that a phrase can require one.
END = "."

_TYPOGRAPHY = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201b\u02bc\u00b4\u0060\u2032\uff07", "'"),
        # Zero-width characters occur inside words, invisibly.
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", None),
    }
)
# Word-level tokenizers put spaces around the apostrophe: "i can ' t".
_SPACED_APOSTROPHE = re.compile(r"(?<=[a-z])\s*'\s*(?=(?:t|m|s|d|re|ve|ll)\b)")
# Without white space at one of them, `_SPACED_APOSTROPHE` changes nothing; this is found many times faster.
_APOSTROPHE_AT_SPACE = re.compile(r"\s'|'\s")
_EMPTY_LINE = re.compile(r"\n\s*\n")
_WORD_OR_END = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:'[^\W\d_]+)*|[^\W_]+|[.!?]")
# Texts up to this long are remembered, and so many at most.
_LONGEST_KNOWN, _MOST_KNOWN = 32, 1 << 15

_WHOLE_WORDS = {
    "can't": "can not",
    "cannot": "can not",
    "cant": "can not",
    "won't": "will not",
    "shan't": "shall not",
    "dont": "do not",
    "im": "i am",
    "let's": "let us",
    "that's": "that is",
}
_ENDINGS = (
    ("n't", " not"),
    ("'m", " am"),
    ("'re", " are"),
    ("'ve", " have"),
    ("'ll", " will"),
    ("'d", " would"),
)


def clean_text(text: str) -> str:
    """Normalise to plain characters: NFKC, straight apostrophes, no zero-width characters."""
    if text.isascii():
        # All that changes of these.
        return text.replace("`", "'")
    return unicodedata.normalize("NFKC", text.translate(_TYPOGRAPHY))


def split_words(text: str) -> list[str]:
    """Split a text into case-folded words, contractions expanded ("can't" → can, not) and sentence ends as ".".

    An empty line ends a sentence too. Markdown, quotes, emoji and all other punctuation are dropped; repeated
    sentence ends become one, and a text does not begin with one.
    """
    plain = clean_text(text).casefold()
    if "'" in plain and _APOSTROPHE_AT_SPACE.search(plain):
        plain = _SPACED_APOSTROPHE.sub("'", plain)
    if "\n" in plain:
        plain = _EMPTY_LINE.sub(f" {END} ", plain)
    words = " ".join(filter(None, map(_WORDS.__getitem__, plain.split())))
    while f"{END} {END}" in words:
        words = words.replace(f"{END} {END}", END)
    return words.removeprefix(END).split()


def contains_words(words: list[str], phrase: list[str]) -> bool:
    """Return whether the words contain the phrase, as whole words and in order."""
    return f" {' '.join(phrase)} " in f" {' '.join(words)} "


class Remembered(dict[str, T]):
    """What a function of a short text gives, computed once for each text: answers repeat their words."""

    def __init__(self, compute: Callable[[str], T]) -> None:
        super().__init__()
        self._compute = compute

    def __missing__(self, text: str) -> T:
        value = self._compute(text)
        if len(text) <= _LONGEST_KNOWN and len(self) < _MOST_KNOWN:
            self[text] = value
        return value


def _split(text: str) -> str:
    """The words of a text without white space."""
    tokens = _WORD_OR_END.findall(text)
    return " ".join(END if token in ".!?" else _expand(token) for token in tokens)


def _expand(word: str) -> str:
    if word in _WHOLE_WORDS:
        return _WHOLE_WORDS[word]
    for ending, full in _ENDINGS:
        if word.endswith(ending) and len(word) > len(ending):
            return word.removesuffix(ending) + full
    return word


_WORDS = Remembered(_split)
