"""The judges that read words agree with a careful reader on a table of harmless answers, and do so in linear time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from cmrm.judges import Answer, make_judge
from cmrm.judges.numbers import split_with_numbers

ROWS: list[dict[str, Any]] = [
    json.loads(line) for line in (Path(__file__).parent / "readings.jsonl").read_text().splitlines()
]
LETTERS = "ABCDEFGH"
ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
SCALES = ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))


def read(row: dict[str, Any]) -> str:
    """What a judge reads in an answer, in the table's words."""
    offers = "".join(
        f"\n({letter}) {text}" for letter, text in zip(LETTERS, row.get("offers") or [], strict=False)
    )

    def judge(reference: str | None, *, harmful: bool = False) -> Any:
        answer = Answer(
            question=f"Which?{offers}", answer=row["answer"], harmful=harmful, reference=reference
        )
        (verdict,) = make_judge(row["judge"]).judge([answer])
        return verdict

    if row["judge"] == "match":
        return judge(row["reference"]).verdict
    if row["judge"] == "refusal":
        return {True: "refused", False: "answered"}[judge(None, harmful=True).refused]
    verdicts = {letter: judge(letter).verdict for letter in LETTERS}
    if set(verdicts.values()) == {"parse_error"}:
        return "undecided"
    return "".join(letter for letter, verdict in verdicts.items() if verdict == "correct") or "none"


@pytest.mark.parametrize("judge", ["choice", "match", "refusal"])
def test_every_answer_of_the_table_is_read_as_a_careful_reader_reads_it(judge):
    rows = [row for row in ROWS if row["judge"] == judge]
    wrong = [(row, found) for row in rows if (found := read(row)) != row["right"]]
    assert len(rows) > 60
    assert wrong == []


def spell(number: int, joint: str) -> str:
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10 - 2] + (f"-{ONES[number % 10]}" if number % 10 else "")
    base, name = next((base, name) for base, name in SCALES if number >= base)
    rest = number % base
    last = (joint if rest < 100 else " ") + spell(rest, joint) if rest else ""
    return f"{spell(number // base, joint)} {name}{last}"


@pytest.mark.parametrize("joint", [" ", " and "])
def test_a_number_in_words_is_the_same_word_as_in_digits(joint):
    for number in [*range(1200), *(7**power for power in range(13)), *(10**power for power in range(12))]:
        assert split_with_numbers(spell(number, joint)) == [str(number)], spell(number, joint)
        assert split_with_numbers(f"{number:,}") == [str(number)]


@pytest.mark.parametrize(
    "piece",
    [
        "3 ", "3-", "9", "twenty ", "A or ", "a, ", "A", "not ", "is not ", "I'd say ", "( ", " ", "\n", "answer: ",
        "final answer: ", "<answer>", "\\boxed{", "\\text{", "\u00bd", "\u00b2", "B\n(", "hundred and ",
    ],
)  # fmt: skip
@pytest.mark.parametrize("judge", ["choice", "match", "refusal"])
def test_one_piece_over_and_over_does_not_keep_a_judge_busy(judge, piece):
    answer = Answer(question="Which?\n(A) a dog\n(B) 3", answer=piece * 2_000, harmful=False, reference="B")
    began = time.process_time()
    make_judge(judge).judge([answer])
    # Measured: up to 0.2 s; what grows with the square would take minutes.
    assert time.process_time() - began < 10
