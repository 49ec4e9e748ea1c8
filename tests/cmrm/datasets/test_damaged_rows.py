"""Every published format with damaged rows: they are set aside or there is a clear stop, and nothing else."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

HUGE = "<a number of 5000 digits>"

Rows = list[tuple[str, Any]]
# Tables, and what separates their cells.
SEPARATORS = {"csv": ",", "tsv": "\t"}


def parse(case, text: str) -> Rows:
    if case.kind in SEPARATORS:
        reader = csv.DictReader(io.StringIO(text), delimiter=SEPARATORS[case.kind])
        return [("", row) for row in reader]
    if case.kind == "lines":
        return [("", json.loads(line)) for line in text.splitlines()]
    document = json.loads(text)
    if case.kind == "sections":
        return [(key, row) for key, rows in document.items() for row in rows]
    document = document[case.inside] if case.inside else document
    return list(document.items()) if case.kind == "object" else [("", row) for row in document]


def serialise(case, rows: Rows) -> str:
    if case.kind in SEPARATORS:
        sink = io.StringIO()
        lines = csv.DictWriter(sink, list(rows[0][1]), delimiter=SEPARATORS[case.kind])
        lines.writeheader()
        lines.writerows(row for _, row in rows)
        return sink.getvalue()
    entries = [json.dumps(row).replace(json.dumps(HUGE), "9" * 5000) for _, row in rows]
    if case.kind == "lines":
        return "".join(f"{entry}\n" for entry in entries)
    if case.kind == "object":
        keyed = (f"{json.dumps(key)}: {entry}" for (key, _), entry in zip(rows, entries, strict=True))
        return "{" + ",\n".join(keyed) + "}"
    if case.kind == "sections":
        sections: dict[str, list[str]] = {}
        for (key, _), entry in zip(rows, entries, strict=True):
            sections.setdefault(key, []).append(entry)
        return (
            "{" + ",\n".join(f"{json.dumps(key)}: [{','.join(one)}]" for key, one in sections.items()) + "}"
        )
    listed = "[" + ",\n".join(entries) + "]"
    return f"{{{json.dumps(case.inside)}: {listed}}}" if case.inside else listed


def put(row: Any, place: tuple[str | int, ...], value: object) -> None:
    *outer, last = place
    for step in outer:
        row = row[step]
    row[last] = value


def drop(row: Any, place: tuple[str | int, ...]) -> None:
    *outer, last = place
    for step in outer:
        row = row[step]
    del row[last]


def wrap(case, rows: Rows) -> str:
    if case.kind == "object":
        return json.dumps([dict(rows)])
    if case.kind in SEPARATORS:
        return serialise(case, rows).replace(SEPARATORS[case.kind], ";")
    return json.dumps({"data": [row for _, row in rows]}, indent=1)


def name_a_column_twice(case, text: str) -> str:
    header, rest = text.split("\n", 1)
    names = header.strip().split(SEPARATORS[case.kind])
    return SEPARATORS[case.kind].join([*names[:-1], names[0]]) + "\n" + rest


# What happens to rows.
TYPES = {
    "a list": ["a"],
    "an object": {"a": "b"},
    "null": None,
    "a number": 7,
    "true": True,
    "a huge number": HUGE,
}


def damage_rows(case, rows: Rows) -> dict[str, str]:
    damaged: dict[str, str] = {}

    def damage(name: str, change: Callable[[Rows], object]) -> None:
        copy = json.loads(json.dumps(rows))
        change(copy)
        damaged[name] = serialise(case, copy)

    damage("a blank question", lambda copy: put(copy[0][1], case.question, " "))
    damage("a row twice", lambda copy: copy.append(copy[0]))
    damaged["another container"] = wrap(case, rows)
    if case.kind in SEPARATORS:
        damage("no column of questions", lambda copy: [drop(row, case.question) for _, row in copy])
        damaged["no header"] = serialise(case, rows).split("\n", 1)[1]
        damaged["a quote never closed"] = serialise(case, rows) + '"'
        damaged["a row too short"] = serialise(case, rows).rstrip().rsplit(SEPARATORS[case.kind], 1)[0]
        damaged["a column twice"] = name_a_column_twice(case, serialise(case, rows))
        damage("a sign that no store can hold", lambda copy: put(copy[0][1], case.question, "a\0b"))
        damaged["a row too long"] = serialise(case, rows).rstrip() + f"{SEPARATORS[case.kind]}more\n"
    else:
        damage("no question", lambda copy: drop(copy[0][1], case.question))
        for name, value in TYPES.items():
            damage(
                f"a question that is {name}", lambda copy, value=value: put(copy[0][1], case.question, value)
            )
        # In a document by id it is a row of its own, in one of sections a row of the first.
        key = rows[0][0] if case.kind == "sections" else "0"
        for name, value in TYPES.items():
            damage(f"a row that is {name}", lambda copy, value=value: copy.append([key, value]))
        damage("half a character", lambda copy: put(copy[0][1], case.question, "\ud800"))
    if case.id is not None:
        damage("a blank id", lambda copy: put(copy[0][1], case.id, " "))
    if case.image is not None:
        damage("an image outside the folder", lambda copy: put(copy[0][1], case.image, case.escape))
        damage("an image that is not there", lambda copy: put(copy[0][1], case.image, "missing.png"))
    return damaged


def test_an_undamaged_file_has_no_rejected_row(case, published, look):
    path = published / case.file
    path.write_text(serialise(case, parse(case, path.read_text())))
    assert look(path) == []


def test_damaged_rows_are_quarantined_or_stop_the_reading(case, published, look):
    path = published / case.file
    damaged = damage_rows(case, parse(case, path.read_text()))
    assert len(damaged) >= 10
    for name, text in damaged.items():
        path.write_text(text, encoding="utf-8")
        assert look(path) != [], name
