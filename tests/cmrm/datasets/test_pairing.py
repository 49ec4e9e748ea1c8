"""Greedy one-to-one pairing of questions with images, best score first."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmrm.datasets.pairing import Match, Offer, assign

QUESTIONS = 6
IMAGES = st.sampled_from("abcdefgh")
TEXTS = st.sampled_from(["a car", "a boat", None])
OFFERS = st.lists(
    st.builds(Offer, st.integers(0, QUESTIONS - 1), IMAGES, TEXTS, st.integers(1, 5)), max_size=30
)
SPARE = st.lists(st.tuples(IMAGES, TEXTS), max_size=12)
laws = settings(derandomize=True, deadline=None)


def offer(question: int, image: str, score: int, caption: str | None = None) -> Offer:
    return Offer(question, image, caption, score)


def images(matches: list[Match | None]) -> list[str | None]:
    return [match and match.image for match in matches]


@laws
@given(OFFERS, SPARE)
def test_no_image_is_given_twice_and_none_that_was_not_there(offers, spare):
    given_ = [match.image for match in assign(offers, questions=QUESTIONS, spare=spare) if match]
    assert len(given_) == len(set(given_))
    assert set(given_) <= {one.image for one in offers} | {image for image, _ in spare}


@laws
@given(OFFERS, SPARE, st.randoms(use_true_random=False))
def test_the_order_of_offers_and_of_spare_images_plays_no_part(offers, spare, random):
    expected = assign(offers, questions=QUESTIONS, spare=spare)
    random.shuffle(offers)
    random.shuffle(spare)
    assert assign(offers, questions=QUESTIONS, spare=spare) == expected


@laws
@given(OFFERS)
def test_nobody_would_rather_swap_what_a_worse_pair_holds(offers):
    matches = assign(offers, questions=QUESTIONS)
    holders = {match.image: match.score for match in matches if match}
    for one in offers:
        own = matches[one.question]
        score = one.score / 10**6
        # Whoever holds the image fits it at least as well, or the question itself has something as good.
        assert holders.get(one.image, -1) >= score or (own is not None and own.score >= score)


@laws
@given(OFFERS, SPARE)
def test_a_question_stays_without_an_image_only_when_all_images_are_given(offers, spare):
    matches = assign(offers, questions=QUESTIONS, spare=spare)
    if None in matches:
        assert {image for image, _ in spare} <= {match.image for match in matches if match}


def test_the_best_pair_of_all_is_taken_first():
    offers = [offer(0, "a", 3), offer(0, "b", 2), offer(1, "a", 4), offer(1, "b", 1)]
    assert images(assign(offers, questions=2)) == ["b", "a"]


def test_ties_go_to_the_earlier_question_and_the_first_image_by_name():
    offers = [offer(number, image, 1) for number in (1, 0) for image in "ba"]
    assert images(assign(offers, questions=2)) == ["a", "b"]


def test_a_match_has_its_score_in_units_and_its_caption():
    assert assign([offer(0, "a", 1_500_000, "a car")], questions=1) == [
        Match(image="a", caption="a car", score=1.5)
    ]


def test_a_question_whose_offers_are_all_taken_gets_what_is_left_by_name_with_score_0():
    spare = [("c", "the sea"), ("b", None), ("c", "a sea"), ("a", "a car"), ("b", "a boat")]
    matches = assign([offer(0, "a", 2), offer(1, "a", 1)], questions=4, spare=spare)
    assert matches[1:] == [
        Match(image="b", caption="a boat", score=0.0),
        Match(image="c", caption="a sea", score=0.0),
        None,
    ]


def test_spare_images_are_not_iterated_unless_needed():
    def refuse():
        pytest.fail("gone through")
        yield

    assert images(assign([offer(0, "a", 1)], questions=1, spare=refuse())) == ["a"]


def test_without_images_or_questions_nothing_is_paired():
    assert assign([], questions=2) == [None, None]
    assert assign([], questions=0, spare=[("a", None)]) == []


def test_an_image_that_cannot_be_used_is_skipped_for_the_next_best_and_asked_about_once():
    asked = []

    def is_usable(image):
        asked.append(image)
        return image not in {"a", "c"}

    offers = [offer(0, "a", 9), offer(1, "a", 8), offer(0, "b", 7), offer(1, "e", 6)]
    spare = [("a", None), ("c", None), ("d", None), ("e", None)]
    matches = assign(offers, questions=3, spare=spare, is_usable=is_usable)
    assert images(matches) == ["b", "e", "d"]
    assert sorted(asked) == ["a", "b", "c", "d", "e"]
