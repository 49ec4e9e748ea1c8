"""Text as judges compare it: no typography, no contractions, words and sentence ends only."""

from __future__ import annotations

import re
import unicodedata

# Sentence ends survive as a word of their own, so that a phrase can ask for one.
END = "."

_TYPOGRAPHY = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201b\u02bc\u00b4\u0060\u2032\uff07", "'"),
        # Zero-width signs stand inside words and are seen by nobody.
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", None),
    }
)
# Word-level tokenizers put blanks around the apostrophe: "i can ' t".
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
    """Write a text in plain characters: straight apostrophes, full-width signs as others, nothing of zero width."""
    return unicodedata.normalize("NFKC", text.translate(_TYPOGRAPHY))


def split_words(text: str) -> list[str]:
    """Split a text into case-folded words, contractions written out ("can't" → can, not) and ends of sentences as ".".

    An empty line ends a sentence too. Markdown, quotation marks, emoji and every other sign are dropped; runs of
    sentence ends become one, and a text does not begin with one.
    """
    plain = clean_text(text).casefold()
    words: list[str] = []
    for token in _WORD_OR_END.findall(_SPACED_APOSTROPHE.sub("'", plain)):
        if token in ".!?" or token.isspace():
            if words and words[-1] != END:
                words.append(END)
        else:
            words.extend(_write_out(token).split())
    return words


def contains_words(words: list[str], phrase: list[str]) -> bool:
    """Say whether the phrase stands among the words, whole words only and in order."""
    return f" {' '.join(phrase)} " in f" {' '.join(words)} "


def _write_out(word: str) -> str:
    if word in _WHOLE_WORDS:
        return _WHOLE_WORDS[word]
    for ending, full in _ENDINGS:
        if word.endswith(ending) and len(word) > len(ending):
            return word.removesuffix(ending) + full
    return word
