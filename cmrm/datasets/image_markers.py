"""Strip the `<image>` placeholder of LLaVA's files from the question of a row that has an image."""

from __future__ import annotations

from cmrm.datasets.fields import RowError

MARKER = "<image>"


def take_out_marker(question: str) -> str:
    """Strip the image placeholder from a question, with the white space around it.

    LLaVA's own code moves it before the question. Raises `RowError` for several placeholders, which mean several
    images.
    """
    count = question.count(MARKER)
    if not count:
        return question
    if count > 1:
        raise RowError(f"{MARKER} stands in the question {count} times, and one image is given")
    before, _, after = question.partition(MARKER)
    text, rest = before.rstrip(), after.lstrip()
    if not text or not rest:
        return text or rest
    gap = before[len(text) :] + after[: len(after) - len(rest)]
    return f"{text}{chr(10) if chr(10) in gap else ' '}{rest}"
