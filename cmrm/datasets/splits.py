"""Set anchors aside: the samples that measure the shift and are never judged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from cmrm.errors import UserError
from cmrm.samples import Sample


def split(samples: Iterable[Sample], *, fraction: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Split samples into (anchors, targets), each in the order given, by a hash of seed and question.

    Equal questions, whatever their case and spacing, fall on one side, across data sets too if the fraction is the
    same; and rows added or removed move nobody else. The share of anchors is `fraction` on average, not exactly.
    Raises `UserError` for a fraction outside [0, 1].
    """
    if not 0.0 <= fraction <= 1.0:
        raise UserError(f"the fraction of anchors is {fraction}; give a number from 0 to 1.")
    anchors: list[Sample] = []
    targets: list[Sample] = []
    for sample in samples:
        (anchors if draw(sample.question, seed=seed) < fraction else targets).append(sample)
    return anchors, targets


def draw(question: str, *, seed: int) -> float:
    """Draw a question's own number, uniform on [0, 1) over questions, from SHA-256."""
    text = " ".join(question.casefold().split())
    digest = hashlib.sha256(f"{seed}\n{text}".encode()).digest()
    # 53 bits are what a float holds exactly, so 1.0 is never drawn.
    return (int.from_bytes(digest[:8]) >> 11) / 2**53
