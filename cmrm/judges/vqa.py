"""The vqa judge: VQA accuracy of a short answer against ten annotators', as in the official evaluation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cmrm.judges.judge import Answer, Field, Judge, Verdict
from cmrm.judges.references import read_references

# With this many matches among the other annotators an answer scores in full.
AGREEING = 3

ARTICLES = frozenset(("a", "an", "the"))
NUMBERS = {
    word: str(value)
    for value, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
SIGNS = ';/[]"{}()=+\\_-><@`,?!'
# The words whose apostrophe may be left out in an answer; of several in a word, any one may.
APOSTROPHES = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've "
    "needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's "
    "there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't "
    "what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're "
    "why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"
).split()

_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")


def _list_contractions() -> Mapping[str, str]:
    found = {
        word[:index] + word[index + 1 :]: word
        for word in APOSTROPHES
        for index, character in enumerate(word)
        if character == "'"
    }
    # The published table has this one reversed.
    return {**found, "somebody'd": "somebodyd"}


CONTRACTIONS = _list_contractions()


@dataclass(frozen=True, kw_only=True)
class VqaJudge(Judge):
    """Scores 0 to 100: the mean over the references, each left out once, of min(1, matches among the others / 3).

    For samples whose reference is a JSON list of texts, as the format `vqav2` has it: one match in ten scores 30,
    two 60, three 90, four and more 100. Answer and references are normalised as by the evaluation code of VQA v2 (Goyal
    et al. 2017), which does so only if the references differ: if all ten are equal, it would score "Yes." against
    "yes" 0, and this judge 100. Harmful questions, and references that are not a list of more than three, are not
    applicable.
    """

    kind: ClassVar[str] = "vqa"
    reads: ClassVar[frozenset[Field]] = frozenset(("answer", "harmful", "reference"))
    version: ClassVar[int] = 1

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        return [_judge_one(answer) for answer in answers]

    def spec(self) -> Mapping[str, Any]:
        return {"judge": self.kind, "version": self.version}


def _judge_one(answer: Answer) -> Verdict:
    references = read_references(answer.reference)
    if answer.harmful or references is None or len(references) <= AGREEING:
        return Verdict(verdict="not_applicable")
    given = normalise_answer(answer.answer)
    matches = sum(normalise_answer(reference) == given for reference in references)
    count = len(references)
    left_out = matches * _credit(matches - 1) + (count - matches) * _credit(matches)
    return Verdict(
        verdict="scored", score=100 * left_out / (AGREEING * count), raw=f"{matches} of {count}: {given}"
    )


def _credit(matches: int) -> int:
    """Return the credit for a number of matches, in thirds: an integer, so that 90 is exact."""
    return min(AGREEING, max(matches, 0))


def normalise_answer(text: str) -> str:
    """Normalise an answer as VQA's evaluation code does: punctuation, articles, number words and contractions."""
    plain = text.replace("\n", " ").replace("\t", " ").strip()
    words = (NUMBERS.get(word, word) for word in _strip_signs(plain).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _strip_signs(text: str) -> str:
    """Delete punctuation that is next to a space, or all if a number has a comma; replace the rest by a space."""
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    stripped = text
    for sign in SIGNS:
        by_space = f"{sign} " in text or f" {sign}" in text
        stripped = stripped.replace(sign, "" if by_space or in_number else " ")
    return _PERIOD.sub("", stripped)
