"""Normalise text for rule-based judges: plain characters, expanded contractions, words and sentence ends only."""

from __future__ import annotations

import re
import unicodedata

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
_WORD_OR_END = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:'[^\W\d_]+)*|[^\W_]+|[.!?]|\n\s*\n")

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
    return unicodedata.normalize("NFKC", text.translate(_TYPOGRAPHY))


def split_words(text: str) -> list[str]:
    """Split a text into case-folded words, contractions expanded ("can't" → can, not) and sentence ends as ".".

    An empty line ends a sentence too. Markdown, quotes, emoji and all other punctuation are dropped; repeated
    sentence ends become one, and a text does not begin with one.
    """
    plain = clean_text(text).casefold()
    words: list[str] = []
    for token in _WORD_OR_END.findall(_SPACED_APOSTROPHE.sub("'", plain)):
        if token in ".!?" or token.isspace():
            if words and words[-1] != END:
                words.append(END)
        else:
            words.extend(_expand(token).split())
    return words


def contains_words(words: list[str], phrase: list[str]) -> bool:
    """Return whether the words contain the phrase, as whole words and in order."""
    return f" {' '.join(phrase)} " in f" {' '.join(words)} "


def _expand(word: str) -> str:
    if word in _WHOLE_WORDS:
        return _WHOLE_WORDS[word]
    for ending, full in _ENDINGS:
        if word.endswith(ending) and len(word) > len(ending):
            return word.removesuffix(ending) + full
    return word
