"""Strip the placeholders of media, `<image>` in LLaVA's files, from the question of a row that has some."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from cmrm.datasets.fields import RowError
from cmrm.prompts.media import Medium, MediumKind

MARKER = "<image>"
# Numbered as in MMMU, or not as in LLaVA's files.
_MARKERS = re.compile(r"<(image|video|audio)(?:[ _]?(\d{1,3}))?>")


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


def take_out_markers(question: str, media: Sequence[Medium]) -> tuple[str, tuple[Medium, ...], str | None]:
    """Strip the placeholders of media from a question; return it, the media in their order, and what was taken out.

    Where all stand before the question, or behind it, in the order of the media, they are removed. Others become the
    names of the media ("image 2"), counted by kind, since all stand before the question. They are numbered, or as many
    as the media of their kind; an `<image>` may stand for the frames of a video where there are no images. Raises
    `RowError` for other numbers.
    """
    found = list(_MARKERS.finditer(question))
    if not media or not found:
        return question, tuple(media), None
    kinds = Counter(one.kind for one in media)
    ordered: list[Medium] = []
    names: list[str] = []
    counted: Counter[MediumKind] = Counter()
    for match in found:
        kind = _find_kind(match[1], kinds)
        if match[2] is None:
            counted[kind] += 1
        number = counted[kind] if match[2] is None else int(match[2])
        own = [one for one in media if one.kind == kind]
        if match[2] is not None and not 1 <= number <= len(own):
            raise RowError(f"{match[0]} stands in the question, and {_count(kinds, kind)} given")
        names.append(f"{kind} {number}")
        ordered += own[number - 1 : number] if match[2] is None else []
    for kind, count in counted.items():
        if count != kinds[kind]:
            raise RowError(f"<{kind}> stands in the question {count} times, and {_count(kinds, kind)} given")
    shown = tuple(ordered if len(ordered) == len(media) else media)
    text = _take_out(question, found, names, shown=_name(shown))
    taken = " ".join(match[0] for match in found)
    return text, shown, taken


def _take_out(
    question: str, found: Sequence[re.Match[str]], names: Sequence[str], *, shown: Sequence[str]
) -> str:
    """Remove the placeholders if they say nothing but that the media are `shown`, else put names in their place."""
    before, behind = question[: found[0].start()].strip(), question[found[-1].end() :].strip()
    between = any(question[one.end() : other.start()].strip() for one, other in pairwise(found))
    if list(names) == list(shown) and not between and not (before and behind):
        return before or behind
    text, start = "", 0
    for match, name in zip(found, names, strict=True):
        text += question[start : match.start()]
        start = match.end()
        # Apart from words that touch the placeholder.
        text += f"{' ' * text[-1:].isalnum()}{name}{' ' * question[start : start + 1].isalnum()}"
    return f"{text}{question[start:]}".strip()


def _name(media: Sequence[Medium]) -> list[str]:
    counted: Counter[MediumKind] = Counter()
    names = []
    for one in media:
        counted[one.kind] += 1
        names.append(f"{one.kind} {counted[one.kind]}")
    return names


def _find_kind(marked: str, kinds: Counter[MediumKind]) -> MediumKind:
    if marked == "image" and not kinds["image"] and kinds["video"]:
        return "video"
    return "image" if marked == "image" else "video" if marked == "video" else "audio"


def _count(kinds: Counter[MediumKind], kind: MediumKind) -> str:
    count = kinds[kind]
    return f"{count} {kind} is" if count == 1 else f"{count} of {kind} are"
