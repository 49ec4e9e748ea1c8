"""Captions are found by the words they share with a question, rare words first, the same on every machine."""

from __future__ import annotations

import math
import random
import re
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data import caption_search as search
from tasks.data.caption_search import STOP_WORDS, WEIGHT_SCALE, search_captions

WORDS = st.sampled_from(
    ["dog", "dogs", "cat", "violin", "glass", "car", "cars", "the", "How", "likes", "ж", "жук"]
)
TEXTS = st.lists(WORDS, max_size=5).map(" ".join)
CAPTIONS = st.lists(st.tuples(st.sampled_from("abcdef"), TEXTS), max_size=20)


def find(questions, captions, **options):
    rows = search_captions(questions, captions, **options).to_pylist()
    return [(row["question"], row["image"], row["caption"], row["score"]) for row in rows]


def content_words(text: str) -> set[str]:
    words = [word for word in re.findall(r"[^\W\d_]{2,}", text.lower()) if word not in STOP_WORDS]
    return {word[:-1] if len(word) > 3 and word[-1] == "s" and word[-2:] != "ss" else word for word in words}


def count_by_hand(questions, captions, candidates):
    holders = Counter(word for _, text in captions for word in content_words(text))
    weights = {word: round(WEIGHT_SCALE * math.log1p(len(captions) / n)) for word, n in holders.items()}
    found = []
    for number, question in enumerate(questions):
        best: dict[str, tuple[int, str]] = {}
        for image, text in sorted(captions):
            score = sum(weights[word] for word in content_words(question) & content_words(text))
            if score > best.get(image, (0, ""))[0]:
                best[image] = (score, text)
        ranked = sorted((-score, image, text) for image, (score, text) in best.items())[:candidates]
        found += [(number, image, text, -score) for score, image, text in ranked]
    return found


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.lists(TEXTS, max_size=10), CAPTIONS, st.integers(1, 6))
def test_the_sql_finds_what_counting_by_hand_finds(questions, captions, candidates):
    assert find(questions, captions, candidates=candidates) == count_by_hand(questions, captions, candidates)


def test_a_rare_word_outweighs_common_ones():
    captions = [("a", "a dog and a cat"), ("b", "a violin"), ("c", "a dog"), ("d", "a cat")]
    first, *_ = find(["does the dog play the violin?"], captions)
    assert first[1:3] == ("b", "a violin")


def test_stop_words_and_case_and_plurals_do_not_count():
    assert [
        row[1:3] for row in find(["How do I get the KEYS?"], [("a", "how do i get the"), ("b", "a key")])
    ] == [("b", "a key")]


def test_an_image_comes_with_the_caption_that_shares_most():
    (found,) = find(["a red car"], [("a", "a car"), ("a", "a red car on a road"), ("a", "red")])
    assert found[2] == "a red car on a road"


def test_the_order_of_captions_plays_no_part_and_repeats_change_no_byte():
    generator = random.Random(0)
    words = [f"{first}{second}" for first in ("ba", "ke", "li", "mo") for second in ("ra", "ri", "lo")]
    captions = [(f"{n % 90:03d}", " ".join(generator.choices(words, k=3))) for n in range(200)]
    questions = [" ".join(generator.choices(words, k=2)) for _ in range(40)]
    expected = find(questions, captions)
    for _ in range(3):
        generator.shuffle(captions)
        assert find(questions, captions) == expected


def test_captions_arriving_in_many_batches_are_all_searched(monkeypatch):
    monkeypatch.setattr(search, "ROWS_AT_ONCE", 7)
    captions = [(f"{n:03d}", f"a {'boat' if n % 2 else 'car'}") for n in range(50)]
    assert len(find(["boat"], iter(captions))) == 25


def test_letters_of_sql_are_only_letters():
    hostile = "'); DROP TABLE given; -- %boat_ \\ \0"
    ((_, image, caption, _),) = find([hostile], [("o'hara.jpg", f"boat {hostile}")])
    assert (image, caption) == ("o'hara.jpg", f"boat {hostile}")


def test_without_captions_or_shared_words_nothing_is_found():
    assert find(["a car", ""], []) == []
    assert find([], [("a", "a car")]) == []
    assert find(["zebra"], [("a", "a car")]) == []
