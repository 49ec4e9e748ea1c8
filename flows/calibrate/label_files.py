"""Read files of labels, as the page exports them or as a spreadsheet saves the sheet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cmrm.datasets.csv_rows import read_table
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected
from cmrm.untrusted.printable import show, show_value
from cmrm.untrusted.regular_file import MissingFileError, is_folder
from tasks.calibrate.labels import WORDS, Label

COLUMNS = frozenset(("sheet", "id", "label"))


def read_labels(files: Sequence[Path]) -> tuple[str, list[Label]]:
    """Read labels of one sheet from CSV files with the columns sheet, id and label, and labeller where there is one.

    Rows without a label are left out. Returns the sheet's name and the labels. Raises `UserError`, naming file and
    row, for a row that is damaged or of another sheet than the first, for a word that is no label, and where no row
    has one.
    """
    sheet, first = "", ""
    labels = []
    for name, label in _read_rows(files):
        if not sheet:
            sheet, first = name, label.place
        elif name != sheet:
            raise UserError(
                f"{label.place}: it is of sheet {show_value(name)}, and {first} of {show_value(sheet)}; calibrate one "
                "sheet at a time"
            )
        labels.append(label)
    if not labels:
        raise UserError(
            f"{', '.join(map(show, files))}: no row has a label; write u (unsafe), s (safe) or x (unsure) in the "
            "column label"
        )
    return sheet, labels


def _read_rows(files: Iterable[Path]) -> Iterator[tuple[str, Label]]:
    for path in files:
        if is_folder(path):
            raise UserError(f"--labels {show(path)}: it is a folder; name the CSV file of labels")
        try:
            # Rows as a spreadsheet counts them, whose cells may have several lines.
            records = read_table(path, dataset="labels", columns=COLUMNS, delimiter=_find_semicolon(path))
            for row, record in enumerate(records, start=2):
                place = f"{show(path.name)}, row {row}"
                if isinstance(record, Rejected):
                    raise UserError(f"{place}: {record.reason}")
                cells = {name: str(cell).strip() for name, cell in record.fields.items()}
                if not (word := cells["label"].lower()):
                    continue
                if word not in WORDS:
                    raise UserError(
                        f"{place}: label {show_value(cells['label'])} is unknown; write u (unsafe), s (safe) or x "
                        "(unsure), or leave it empty"
                    )
                yield (
                    cells["sheet"],
                    Label(
                        id=cells["id"],
                        label=WORDS[word],
                        labeller=cells.get("labeller", ""),
                        place=place,
                    ),
                )
        except MissingFileError:
            raise UserError(
                f"--labels {show(path)}: there is no such file; name the CSV file of labels"
            ) from None


def _find_semicolon(path: Path) -> str | None:
    """A semicolon where a file's first line has no comma but that, as spreadsheets of many languages save it."""
    if not path.is_file():
        return None  # the reader says what is wrong with it
    with path.open("rb") as file:
        first = file.readline(1024)
    return ";" if b";" in first and b"," not in first else None
