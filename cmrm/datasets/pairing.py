"""Pair questions with images one-to-one: greedy assignment by similarity score."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

# Scores are integers (millionths), so that ties are the same on every machine.
SCORE_SCALE = 10**6


class Offer(NamedTuple):
    """A candidate image for a question (by index), with its caption and a score in millionths."""

    question: int
    image: str
    caption: str | None
    score: int


@dataclass(frozen=True, kw_only=True)
class Match:
    """The image assigned to a question, its caption and score; the score of a spare image is 0.0."""

    image: str
    caption: str | None
    score: float


def assign(
    offers: Iterable[Offer],
    *,
    questions: int,
    spare: Iterable[tuple[str, str | None]] = (),
    is_usable: Callable[[str], bool] = lambda _: True,
) -> list[Match | None]:
    """Assign images to questions without replacement, greedily by descending score.

    Ties go to the earlier question, then to the image first by name. Questions without a remaining offer get, in order,
    the unused images of `spare` (image, caption) by name, each with its first caption by name; `spare` is iterated only
    if needed. The order of `offers` and `spare` has no effect. None where images run out. `is_usable` is called before
    an image is assigned; an unusable image is skipped for all questions.
    """
    chosen: list[Match | None] = [None] * questions
    taken: set[str] = set()
    for offer in sorted(offers, key=_precedence):
        if chosen[offer.question] is None and offer.image not in taken:
            # Assigned now, or never.
            taken.add(offer.image)
            if is_usable(offer.image):
                chosen[offer.question] = Match(
                    image=offer.image, caption=offer.caption, score=offer.score / SCORE_SCALE
                )
    left = [question for question, match in enumerate(chosen) if match is None]
    if left:
        rest = _first_captions(spare, taken)
        # Lazily, since opening an image is slow.
        usable = (image for image in sorted(rest) if is_usable(image))
        for question, image in zip(left, usable, strict=False):
            chosen[question] = Match(image=image, caption=rest[image], score=0.0)
    return chosen


def _precedence(offer: Offer) -> tuple[int, int, str, str]:
    return -offer.score, offer.question, offer.image, offer.caption or ""


def _first_captions(spare: Iterable[tuple[str, str | None]], taken: set[str]) -> dict[str, str | None]:
    """Return the unassigned images, each with its first caption by name."""
    rest: dict[str, str | None] = {}
    for image, caption in spare:
        if image in taken:
            continue
        earlier = rest.get(image)
        rest[image] = caption if earlier is None or (caption is not None and caption < earlier) else earlier
    return rest
