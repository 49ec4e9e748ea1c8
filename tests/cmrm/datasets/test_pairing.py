from __future__ import annotations

import random

from cmrm.datasets import pairing
from cmrm.datasets.coco import Caption
from cmrm.datasets.pairing import pair


def caption(image: str, text: str) -> Caption:
    return Caption(image=image, text=text)


def test_a_rare_word_outweighs_common_ones():
    captions = [
        caption("a", "a dog and a cat"),
        caption("b", "a violin"),
        caption("c", "a dog"),
        caption("d", "a cat"),
    ]
    (match,) = pair(["does the dog play the violin?"], captions)
    assert match == caption("b", "a violin")


def test_no_image_is_given_twice():
    captions = [caption("a", "a red car"), caption("b", "a car")]
    matches = pair(["steal a car", "paint a red car", "wash a car"], captions)  # one image too few
    assert matches == [caption("b", "a car"), caption("a", "a red car"), None]


def test_stop_words_and_case_and_plurals_do_not_count():
    (match,) = pair(["How do I get the KEYS?"], [caption("a", "how do i get the"), caption("b", "a key")])
    assert match == caption("b", "a key")


def test_the_order_of_captions_plays_no_part():
    words = [f"{first}{second}" for first in ("ba", "ke", "li", "mo") for second in ("ra", "ri", "lo")]
    generator = random.Random(0)
    captions = [caption(f"{n % 90:03d}", " ".join(generator.choices(words, k=3))) for n in range(200)]
    questions = [" ".join(generator.choices(words, k=2)) for _ in range(40)]
    expected = pair(questions, captions)
    for _ in range(3):
        generator.shuffle(captions)
        assert pair(questions, captions) == expected
    images = [match.image for match in expected if match]
    assert len(images) == len(set(images)) == 40


def test_a_question_whose_candidates_are_all_taken_gets_what_is_left(monkeypatch):
    monkeypatch.setattr(pairing, "MAX_CANDIDATES", 1)
    captions = [caption("a", "a boat"), caption("b", "a car"), caption("c", "a car")]
    assert pair(["car one", "car two"], captions) == [caption("b", "a car"), caption("a", "a boat")]


def test_a_question_that_shares_no_word_gets_the_first_image_left():
    captions = [caption("b", "a boat"), caption("a", "a car"), caption("b", "an ark")]
    assert pair(["zebra", "car", "gnu"], captions) == [caption("b", "a boat"), caption("a", "a car"), None]


def test_without_images_nothing_is_paired():
    assert pair(["a car", ""], []) == [None, None]
    assert pair([], [caption("a", "a car")]) == []
