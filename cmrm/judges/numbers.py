"""Normalise numbers in a text, each to one word for its value: "Twenty-three", "23" and "23.0" are the same word.

The rules, so that a match can be checked by hand:

* Digits with a sign, a decimal point, commas between thousands, a fraction bar or a scale ("3 million") have a value.
* Number words have one, up to billions: "two hundred and five". "No one" and its like hold no number.
* "minus" and "negative" before a number are its sign.
* A range or an alternative of two numbers ("3-5", "3 to 5", "three or four") is one word and neither of them.
* Ambiguous digits, and digits that are part of a name, equal only themselves: "1,5", "3:30", "B12", "3rd".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction
from itertools import compress

from cmrm.judges.text import Remembered, clean_text, split_words

SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
# Words that change the meaning of a number word before them: "twenty-third", "two thirds".
ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "half", "quarter",
)  # fmt: skip
SHARES = ("thirds", "fourths", "fifths", "sixths", "eighths", "tenths", "halves", "quarters")
# Of two halves or quarters there are two.
_SPACED_SHARES = SHARES[:-2]
NEGATIONS = frozenset(("minus", "negative"))
# After these words "one" is a pronoun.
DETERMINERS = ("no", "any", "every", "some", "each", "this", "that", "which", "another")
VALUES = (
    {word: value for value, word in enumerate(SMALL)}
    | {word: value for value, word in zip(range(20, 100, 10), TENS, strict=True)}
    | SCALES
)
# Longer ones are no counts, and Python limits the conversion of long digit strings.
MOST_DIGITS = 40

_VULGAR = re.compile(r"(\d{0,9}) ?([\u00bc-\u00be\u2150-\u215e])")
_RAISED = re.compile("(?<=\\w)([\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+)")
_PLAIN = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_LITERAL = re.compile(rf"(?P<sign>[-+])?(?P<number>{_PLAIN})(?:/(?P<divisor>\d+))?(?P<unit>[^\W\d_]+)?")
# Suffixes that change the meaning of the number: "3rd", "3D", "10k".
_OTHER_THING = re.compile("(?:st|nd|rd|th|d|k|[A-Z])")
_PAIR = rf"(?:(?:{'|'.join(TENS)})(?:[- ](?:{'|'.join(SMALL[1:10])})\b)?|(?:{'|'.join(SMALL)})\b)"
_HUNDREDS = rf"(?:(?:(?:{'|'.join(SMALL[1:])})[- ])?hundred\b(?:(?: and)?[- ]{_PAIR})?|{_PAIR})"
_SCALE = "(?:thousand|million|billion)\\b"
_WORDS = (
    rf"(?:(?:{_HUNDREDS}[- ])?{_SCALE}(?:(?: and)?[- ]{_HUNDREDS}[- ]{_SCALE})*(?:(?: and)?[- ]{_HUNDREDS})?"
    rf"|{_HUNDREDS})"
)
_OTHER = rf"(?P<other>-(?:{'|'.join(ORDINALS + SHARES)})\b| (?:{'|'.join(_SPACED_SHARES)})\b)?"
_NOT_BEHIND = "".join(rf"(?<!\b{word} )" for word in DETERMINERS)
_FOUND = re.compile(
    # A name with digits in it; digits with adjacent characters; number words.
    rf"(?P<name>(?<!\w)[^\W\d_]+\d(?:\w|[.,:/-](?=\d))*)"
    rf"|(?P<digits>(?:(?<![\w+-])[-+])?(?<!\w)(?:\d|\.\d)(?:[\w^]|[.,:/-](?=\d))*)(?: (?P<scale>{'|'.join(SCALES)})\b)?"
    rf"|(?P<words>(?:{_NOT_BEHIND}|\b(?!one\b))\b{_WORDS}\b{_OTHER})",
    re.IGNORECASE,
)
# What a text between white space holds if a number starts in it.
_START = re.compile(rf"\d|\b(?:{'|'.join(VALUES)})\b", re.IGNORECASE)


def split_with_numbers(text: str) -> list[str]:
    """Split a text into words as `split_words` does, with each number as one word for its value."""
    plain = clean_text(text if text.isascii() else _write_fractions(text))
    if not plain.isascii():
        plain = re.sub("[\u2212\u2013\u2012]", "-", plain)
    if "\t" in plain or "  " in plain:
        plain = re.sub(r"[ \t]+", " ", plain)
    numbers = list(_find_numbers(plain))
    if not numbers:
        return split_words(plain)
    tokens: list[str | Fraction] = []
    end = 0
    for found in numbers:
        tokens += split_words(plain[end : found.start()])
        tokens += _read(found)
        end = found.end()
    tokens += split_words(plain[end:])
    if any(map(plain.casefold().__contains__, NEGATIONS)):
        tokens = _apply_signs(tokens)
    if len(numbers) > 1:
        tokens = _join_ranges(tokens)
    return list(map(str, tokens))


def _find_numbers(plain: str) -> Iterator[re.Match[str]]:
    """Find what `_FOUND.finditer` finds, many times faster: only where a number may start is it looked for."""
    pieces = plain.split()
    begin = end = 0
    for piece in compress(pieces, map(_MAY_START.__getitem__, pieces)):
        begin = _find_piece(plain, piece, begin)
        for place in range(max(begin, end), begin + len(piece)):
            if place >= end and (found := _FOUND.match(plain, place)):
                yield found
                end = found.end()
        begin += len(piece)


def _find_piece(plain: str, piece: str, start: int) -> int:
    """Find a text with white space around it, or the end of the whole."""
    while True:
        place = plain.index(piece, start)
        start = place + len(piece)
        if not (plain[place - 1 : place] + plain[start : start + 1]).strip():
            return place


def _write_fractions(text: str) -> str:
    """Write ½ and 3² in plain digits before NFKC turns them into other numbers ("31/2", "32")."""

    def add(found: re.Match[str]) -> str:
        part = Fraction(unicodedata.numeric(found[2])).limit_denominator(10)
        return f" {part}" if not found[1] else f"{int(found[1]) + part}"

    return _RAISED.sub(lambda found: f"^{found[1]}", _VULGAR.sub(add, text))


def _read(found: re.Match[str]) -> list[str | Fraction]:
    if words := found["words"]:
        known = words.casefold()
        return [known.replace(" ", "-")] if found["other"] else [_read_words(known)]
    if found["name"]:
        return [found["name"].casefold()]
    digits, scale = found["digits"], found["scale"]
    literal = _LITERAL.fullmatch(digits)
    unit = literal["unit"] if literal else None
    if (
        literal is None
        or len(digits) > MOST_DIGITS
        or not int(literal["divisor"] or 1)
        or (literal["divisor"] and not literal["number"].isdigit())
        or (unit and _OTHER_THING.fullmatch(unit))
    ):
        return [digits.casefold(), *([scale.casefold()] if scale else [])]
    value = Fraction(literal["number"].replace(",", "")) / int(literal["divisor"] or 1)
    value *= SCALES[scale.casefold()] if scale else 1
    value = -value if literal["sign"] == "-" else value
    return [value, *([unit.casefold()] if unit else [])]


def _read_words(phrase: str) -> Fraction:
    total = rest = 0
    for word in re.findall("[a-z]+", phrase):
        value = VALUES.get(word, 0)
        if value < 100:
            rest += value
        elif value == 100:
            rest = max(rest, 1) * 100
        else:
            total, rest = total + max(rest, 1) * value, 0
    return Fraction(total + rest)


def _apply_signs(tokens: list[str | Fraction]) -> list[str | Fraction]:
    signed: list[str | Fraction] = []
    for token in tokens:
        if isinstance(token, Fraction) and signed and signed[-1] in NEGATIONS:
            signed[-1] = -token
        else:
            signed.append(token)
    return signed


def _join_ranges(tokens: list[str | Fraction]) -> list[str | Fraction]:
    """Join two numbers with "to" or "or" between them, or after "between", into one word."""
    numbers = {place for place, token in enumerate(tokens) if not isinstance(token, str)}
    joined: list[str | Fraction] = []
    done = 0
    for place in sorted(numbers):
        if place < done or place + 2 not in numbers:
            continue
        word = tokens[place + 1]
        if word in ("to", "or") or (word == "and" and place > 0 and tokens[place - 1] == "between"):
            joined += tokens[done:place]
            joined.append(f"{tokens[place]}-{word}-{tokens[place + 2]}")
            done = place + 3
    return joined + tokens[done:]


_MAY_START = Remembered(lambda piece: _START.search(piece) is not None)
