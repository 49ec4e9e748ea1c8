r"""Parse a multiple-choice answer: which choice a text names, by its letter or by its words.

The rules; the first that matches decides:

1. A final answer: `\boxed{B}`, `<answer>B</answer>`, "Final answer: B".
2. A statement of the answer: "the answer is B", "it must be B", "I choose B", "B is correct".
3. A letter at the start of a line: "B.", "(b)", "B, since …"; of several such lines the first counts if it is a letter
   alone.
4. Letters that are mentioned as choices: "option B", "(B)", ": B" at the end.
5. The words of a choice, alone or after "it is", "the answer is", "I see" and the like.

A letter that is negated ("not A", "A is wrong", "rather than A") or conditional does not count. Several letters at the
rule that decides are no choice; nor is one that may be a word ("A dog"). A lower-case letter counts only before
punctuation or the end.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cmrm.judges.match import normalise
from cmrm.judges.refusal import find_refusal
from cmrm.judges.text import clean_text, contains_words

# One letter, bare or in brackets, and several of them.
_NAME = r"(?:(?<!\w)[(\[{\"'] ?[A-Za-z] ?[)\]}\"']|(?<![\w'-])[A-Za-z](?!-?\w|'\w))"
# Bounded, since an answer may be one letter over and over.
_SEVERAL = (
    rf"{_NAME}(?: ?(?:, ?(?:or |and )?|/ ?|& ?|or |and |and/or )(?:maybe |perhaps |possibly )?(?:option |choice )?"
    rf"{_NAME}){{0,8}}"
)
_LETTERS = (
    r"[ :]*(?:(?:definitely|clearly|probably|likely|most|therefore|thus|simply|indeed|either|both|still|surely) )*"
    rf"(?:the )?(?:(?:option|choice|letter|answer)s?\b:? ?)?(?P<letters>{_SEVERAL})"
)
_ANSWER = (
    r"\b(?:answer|choice|option|solution)\b(?: (?:here|number|letter|option|choice|to (?:the|this) question))?"
    r" ?(?:[:=\u2192\u2013\u2014-]|->|(?:is|was)\b|(?:would|should|must|will|has to|seems to) be\b)"
)
_DENIALS = "wrong|incorrect|false"


def _compile(*patterns: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns)


_FINAL = _compile(rf"\bfinal {_ANSWER}{_LETTERS}")
_SAID = _compile(
    _ANSWER + _LETTERS,
    rf"\b(?:it|this|that)(?:'s| is| was| (?:must|has to|should|would|could|might|may) be)\b{_LETTERS}",
    r"\bI(?:'d|'ll|'m| would| will| am| have to| must)? (?:choose|choosing|pick|picking|select|go with|going with|say"
    rf"|vote for|opt for|guess|think|believe)\b{_LETTERS}",
    rf"(?P<letters>{_SEVERAL})[).:,]? (?:is|are|(?:would|must) be|seems|looks) (?:the |most |likely )*"
    r"(?:correct|right|best|true|answer)\b",
)
_MENTIONED = (
    *_compile(rf"\b(?:option|choice|answer|letter)s? (?P<letters>{_SEVERAL})"),
    re.compile(r"(?<!\w)(?P<letters>\([A-Z]\))"),
    re.compile(r"(?:[:=\u2192]|->|\b(?:so|thus|hence|therefore)),? (?P<letters>[A-Z])\W*$"),
)
_OPENING = re.compile(
    rf"^[^\w(\[{{\"'\n]*(?:[Bb]oth |[Ee]ither |[Aa]ll of )?(?P<letters>{_SEVERAL})(?P<alone>\W*$)?"
    r"(?= ?(?:[.):,\u2014\u2013-]|$|\(|(?:because|since|as|is|for)\b))",
    re.MULTILINE,
)
_DENIED = _compile(
    r"(?:n't|\b(?:not|nor|neither|never|than|instead of|unlike|except|rules? out|ruled out|ruling out"
    r"|eliminat(?:e|ed|ing)|exclud(?:e|ed|ing)|discard(?:ed)?|reject(?:ed)?)) "
    rf"(?:be )?(?:the )?(?:(?:option|choice|answer)s? )?(?P<letters>{_SEVERAL})",
    rf"(?P<letters>{_SEVERAL})[).:]? (?:(?:is|are|was|were|would be|looks|seems) (?:both |also |clearly |just |all )?"
    rf"(?:{_DENIALS}|not (?!{_DENIALS}))|(?:is|are|was|were|does|do|ca|could|would)n't (?!{_DENIALS})|cannot )",
)
# A prefix that turns what follows into no statement: "if the answer is", "I don't think that the answer is".
(_CONDITION,) = _compile(
    r"(?:\b(?:if|whether|unless|suppose|assuming)|(?:n't|\bnot) (?:think|believe|say|sure|certain)(?: if| whether)?)"
    r"(?: that)?(?: the)?(?: correct| right| best)? $"
)
(_CALLED,) = _compile(r"\b(?:options?|choices?|letter) $")
# What follows a letter that is not a word: punctuation, or a word that cannot follow an article.
_SIGN = re.compile(r" ?(?:$|[^\w ])")
(_NO_NOUN,) = _compile(
    r" (?:is|are|was|were|would|or|and|nor|not|because|since|as|but|rather|instead|for|over)\b"
)
# What may precede the words of a choice, as `normalise` writes it.
_FRAME = re.compile(
    r"(?:so |therefore |i think )*(?:(?:correct |right |best |final )?(?:answer|option|choice)(?: is)?"
    r"|(?:it|this|that|they|these|there) (?:is|are)|it is|(?:i|we|you) (?:can )?see|(?:image|picture|photo) shows) "
)
# How many characters back a condition may begin.
_REACH = 80


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The parsed choice: a letter or None; `undecided` says why the text is ambiguous, '' if it is not."""

    choice: str | None = None
    undecided: str = ""


class _Name(NamedTuple):
    """A letter found in a text at an offset; `certain` if it cannot be a word."""

    offset: int
    letter: str
    certain: bool


def read_choice(text: str, offers: Mapping[str, str]) -> Reading:
    """Parse the one choice that a text names; `offers` are the choices by letter, empty if not known."""
    plain = _write_plainly(text)
    denied = {name.offset for pattern in _DENIED for name in _find_names(pattern, plain, offers)}

    def find(*patterns: re.Pattern[str]) -> list[_Name]:
        names = [name for pattern in patterns for name in _find_names(pattern, plain, offers)]
        return [name for name in names if name.offset not in denied]

    said = find(*_FINAL) or find(*_SAID)
    if found := _list_certain(said) or _list_openings(plain, offers, denied):
        return _decide(found)
    if find_refusal(text):
        return Reading()
    mentioned = find(*_MENTIONED)
    if found := _list_certain(mentioned) or _find_words(plain, offers):
        return _decide(found)
    if said or mentioned:
        return Reading(undecided="the letter may be a word")
    words = normalise(plain)
    if any(contains_words(words, choice) for choice in _normalise_all(offers).values()):
        return Reading(undecided="it holds the words of a choice and more")
    return Reading()


def describe_rules() -> Mapping[str, str]:
    """Return the sha256 of the patterns, for cache keys."""
    patterns = (
        *_FINAL,
        *_SAID,
        *_MENTIONED,
        _OPENING,
        *_DENIED,
        _CONDITION,
        _CALLED,
        _SIGN,
        _NO_NOUN,
        _FRAME,
    )
    text = "\n".join(pattern.pattern for pattern in patterns)
    return {"letters": hashlib.sha256(text.encode()).hexdigest()}


def _write_plainly(text: str) -> str:
    """Strip emphasis, and rewrite boxes and <answer> tags as "final answer: …"."""
    plain = re.sub(r"\\(?:text|textbf|mathrm|mathbf|mathsf)\s*\{([^{}]*)\}", r"\1", clean_text(text))
    plain = re.sub(r"[*_`$]", "", plain)
    plain = re.sub(r"\\boxed\s*\{([^{}]*)\}", r" final answer: \1", plain)
    plain = re.sub(r"<answer>([^<]*)</answer>", r" final answer: \1", plain, flags=re.IGNORECASE)
    return "\n".join(" ".join(line.split()) for line in plain.splitlines() if line.strip())


def _find_names(pattern: re.Pattern[str], plain: str, offers: Mapping[str, str]) -> Iterator[_Name]:
    for found in pattern.finditer(plain):
        if _CONDITION.search(plain, max(0, found.start() - _REACH), found.start()):
            continue
        yield from _name_letters(plain, *found.span("letters"), offers)


def _name_letters(plain: str, start: int, end: int, offers: Mapping[str, str]) -> Iterator[_Name]:
    called = bool(_CALLED.search(plain, max(0, start - _REACH), start))
    for found in re.finditer(_NAME, plain[start:end]):
        given = found[0].strip("()[]{}\"' ")
        last = start + found.end()
        sure = len(found[0]) > 1 or called or bool(_SIGN.match(plain, last))
        if given.islower():
            may_be_letter = sure
        elif given == "I":
            may_be_letter = "I" in offers
        else:
            sure = sure or given != "A" or bool(_NO_NOUN.match(plain, last))
            may_be_letter = True
        if may_be_letter:
            yield _Name(start + found.start(), given.upper(), sure)


def _list_certain(names: Iterable[_Name]) -> list[str]:
    return sorted({name.letter for name in names if name.certain})


def _list_openings(plain: str, offers: Mapping[str, str], denied: Container[int]) -> list[str]:
    """List the letters at line starts: the first one alone if it is the only text on its line."""
    found: set[str] = set()
    for line in _OPENING.finditer(plain):
        names = [
            name
            for name in _name_letters(plain, *line.span("letters"), offers)
            if name.certain and name.offset not in denied
        ]
        if line["alone"] is not None and not found and len(names) == 1:
            return [names[0].letter]
        found.update(name.letter for name in names)
    restated = [
        letter
        for letter, choice in offers.items()
        if re.search(rf"(?<!\w){letter} ?[).:] ?{re.escape(choice)}", plain, re.IGNORECASE)
    ]
    return sorted(found.union(restated) if found and len(restated) > 1 else found)


def _find_words(plain: str, offers: Mapping[str, str]) -> list[str]:
    """Find the choices whose words make up a whole clause, apart from a frame like "it is"."""
    parts = {" ".join(normalise(part)) for part in re.split(r"[.!?;:,](?=\s|$)|\n", plain)}
    said = {*parts, *(_FRAME.sub("", part, count=1) for part in parts if _FRAME.match(part))}
    return sorted(letter for letter, words in _normalise_all(offers).items() if " ".join(words) in said)


def _normalise_all(offers: Mapping[str, str]) -> dict[str, list[str]]:
    return {letter: words for letter, choice in offers.items() if (words := normalise(choice))}


def _decide(letters: Sequence[str]) -> Reading:
    if len(letters) == 1:
        return Reading(choice=letters[0])
    return Reading(undecided=f"it names {' and '.join(letters)}")
