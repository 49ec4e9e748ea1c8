from __future__ import annotations

import random
import re

import pytest

from cmrm.judges.numbers import _FOUND, _find_numbers
from cmrm.judges.text import contains_words, split_words

PIECES = (
    "a two twenty-one phone someone's none can't don't it ' s don ' t ' x' . ! ... \n \n\n \t ' 3 3.5 1,000 -5 +4 "
    ".5 B12 3rd 5/6 two-thirds hundred minus (one), _two_ one's no any TWO Straße naïve sıx İx \u00a0 \x1c x_y #3 "
    "3- --4 half"
).split(" ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I can't.", ["i", "can", "not", "."]),
        ("don ’ t stop", ["do", "not", "stop"]),
        ("We'll see, they've gone", ["we", "will", "see", "they", "have", "gone"]),
        ("...Hello?! World", ["hello", ".", "world"]),
        ("one\n\ntwo\nthree", ["one", ".", "two", "three"]),
        ("1,000.5 STRASSE Straße", ["1,000.5", "strasse", "strasse"]),
        ("*__`x`__*", ["x"]),
        ("抱歉,我不能", ["抱歉", "我不能"]),
        ("", []),
    ],
)
def test_text_is_split_into_plain_words(text, words):
    assert split_words(text) == words


def test_a_phrase_is_found_as_whole_words():
    assert contains_words(["a", "red", "car"], ["red", "car"])
    assert not contains_words(["a", "redcar"], ["red"])


def read_plainly(text: str) -> list[str]:
    """Words and sentence ends of a text in lower case, one after the other, without contractions."""
    words: list[str] = []
    for token in re.findall(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[.!?]|\n\s*\n", text):
        if token not in ".!?" and not token.isspace():
            words.append(token)
        elif words and words[-1] != ".":
            words.append(".")
    return words


def test_words_are_those_of_one_expression_over_the_whole_text():
    draw = random.Random(0)
    for _ in range(2000):
        text = "".join(
            draw.choice(("red", "dog", "x", "3.5", "7", "_", "-", ",", ".", "!", "\n", " ", " "))
            for _ in range(12)
        )
        assert split_words(text) == read_plainly(text), text


def test_numbers_are_found_where_a_search_of_the_whole_text_finds_them():
    draw = random.Random(1)
    for _ in range(2000):
        text = "".join(draw.choice(PIECES) + draw.choice((" ", " ", "", "\n", "-")) for _ in range(6))
        expected = [found.span() for found in _FOUND.finditer(text)]
        assert [found.span() for found in _find_numbers(text)] == expected, text


def test_a_long_word_is_read_again_and_not_kept():
    from cmrm.judges.text import _WORDS

    long = "a" * 40 + "." + "b" * 40
    assert split_words(long) == split_words(long) == ["a" * 40, ".", "b" * 40]
    assert long not in _WORDS
