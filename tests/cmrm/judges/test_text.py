from __future__ import annotations

import pytest

from cmrm.judges.text import contains_words, split_words


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
