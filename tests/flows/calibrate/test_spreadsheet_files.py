"""A sheet whose answers look like anything but prose is read again after a spreadsheet has saved it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from flows.calibrate.label_files import read_labels
from flows.calibrate.sheet_files import write_sheet
from tasks.calibrate.frame import JudgedAnswer
from tasks.calibrate.sheet import Sheet, SheetRow, Stratum
from tasks.calibrate.texts import SheetText
from tasks.report.outcomes import Arm

# What a model writes that repeats itself, answers with a table, or forgets to close a quote.
ANSWERS = {
    "line breaks": "\n" * 1500,
    "a table": "\n".join(["1,2,3,4,5,6"] * 20),
    "semicolons": "\n".join(["1;2;3;4;5;6"] * 20),
    "quotes": 'he said "no\n"yes", and\r\n"',
    "control characters": "a\rb\x00c\u2028d\x85e\x0bf",
    "a formula behind a line": "\n=1+1",
}


@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_filled_in_sheet_is_read_whatever_its_answers_hold(
    tmp_path: Path, answer: str, delimiter: str
) -> None:
    stratum = Stratum(arm=Arm("moon", "image"), dataset="a", verdict="safe")
    judged = [
        JudgedAnswer(arm=stratum.arm, dataset="a", sample_id=str(number), digest="d") for number in range(3)
    ]
    rows = [SheetRow(id=f"a{number:016x}", answer=one, stratum=stratum) for number, one in enumerate(judged)]
    text = SheetText(dataset="a", question="what?", answer=answer, letters=len(answer), image=None)
    sheet = Sheet(name="s", seed=0, judge="refusal", strata={stratum: 9}, rows=rows)
    write_sheet(sheet, {row.id: text for row in rows}, {"a": None}, out=tmp_path)
    with (tmp_path / "sheet.csv").open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [row["answer"].replace("⏎", "").split() for row in written] == [answer.split()] * 3
    saved = tmp_path / "saved.csv"
    with saved.open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.DictWriter(file, list(written[0]), delimiter=delimiter)
        table.writeheader()
        table.writerows({**row, "label": "U"} for row in written)
    name, labels = read_labels([saved])
    assert (name, [(one.id, one.label) for one in labels]) == ("s", [(row.id, "unsafe") for row in rows])
