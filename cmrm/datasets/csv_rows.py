"""Stream rows of CSV and TSV files; a damaged row is rejected (quarantine) with its line, and reading continues."""

from __future__ import annotations

import csv
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cmrm.datasets.compressed import strip_compression
from cmrm.datasets.fields import RowError, clean
from cmrm.datasets.rows import MAX_LINE_BYTES, Line, Record, read_lines, refuse_a_long_line, reject
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected

TAB_SUFFIXES = (".tsv", ".tab")
# No cell of a question has as many lines; a quote that is never closed has, and would take the file as one cell.
MAX_ROW_LINES = 1000
# So many delimiters, where rows would have them, show that the lines of a cell are rows behind an open quote.
_MIN_DELIMITERS = 10

# The first line by which spreadsheets name the delimiter.
_STATED = re.compile(r'"?sep=([^"\r\n])"?\s*', re.IGNORECASE)
_QUOTED = re.compile(r'"(?:[^"]|"")*+"')


def read_table(
    path: Path,
    *,
    dataset: str,
    columns: frozenset[str] = frozenset(),
    check: Callable[[Sequence[str]], None] | None = None,
    delimiter: str | None = None,
) -> Iterator[Record | Rejected]:
    """Read a CSV file whose header has at least `columns`; quoted fields may span lines.

    Without `delimiter`, it is the one that a first line such as `sep=;` names, else a tab where the file is named .tsv
    or .tab, and a comma elsewhere. A row may have `MAX_ROW_LINES` lines and `MAX_LINE_BYTES`. Raises `UserError` if the
    file cannot be opened, if a quote is never closed, if the header lacks or repeats a column, if the first line names
    another delimiter than `delimiter`, and whatever `check` raises for the header.
    """
    # The default of 131,072 characters is less than a long context; the limit is global to the csv module.
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = _RowLines(path)
    rows = _Rows(lines, delimiter=_choose_delimiter(lines, delimiter))
    header = _read_header(rows, path, columns)
    if check is not None and header:
        check(header)
    while True:
        try:
            values = rows.read(width=len(header))
        except RowError as error:
            yield reject(dataset=dataset, line=lines.first, reason=str(error), raw=lines.text)
            continue
        if values is None:
            return
        if len(values) == len(header):
            reason = rows.find_swallowed_rows(width=len(header))
        else:
            reason = f"{len(values)} fields where the header has {len(header)}{rows.name_open_quote()}"
        if reason is None:
            fields = dict(zip(header, values, strict=True))
            yield Record(line=lines.first, fields=fields, raw=lines.text)
        elif values:
            yield reject(dataset=dataset, line=lines.first, reason=reason, raw=lines.text)


class _RowLines:
    """The lines of a file for a CSV reader; it keeps those of the row being read, and can give them once more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.row: list[Line] = []
        self.ended = False
        self._size = 0
        self._lines = read_lines(path)
        self._again: deque[Line] = deque()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Return the next line; raises `RowError` if it is too long, and `UserError` if the row is."""
        try:
            line = self._again.popleft() if self._again else next(self._lines)
        except StopIteration:
            self.ended = True
            raise
        before = self._size
        self.row.append(line)
        self._size += len(line.text)
        refuse_a_long_line(line)
        if len(self.row) > MAX_ROW_LINES or before > MAX_LINE_BYTES:
            raise UserError(
                f"{self.path}: the row on line {self.first} is still open on line {line.number}, and a row has at "
                f"most {MAX_ROW_LINES:,} lines and {MAX_LINE_BYTES:,} characters; close its quote, or double a quote "
                'that is text (""), or write longer texts as JSONL.'
            )
        return line.text

    def begin(self) -> None:
        """Begin another row."""
        self.row, self._size = [], 0

    def rewind(self, *, count: int = 0) -> None:
        """Give the lines of the row once more, except the first `count`."""
        self._again.extendleft(reversed(self.row[count:]))
        del self.row[count:]
        self._size = sum(len(line.text) for line in self.row)

    @property
    def first(self) -> int:
        """The number of the row's first line."""
        return self.row[0].number

    @property
    def text(self) -> str:
        """The row as it stands in the file."""
        return "".join(line.text for line in self.row)


class _Rows:
    """Reads row by row; a quote after spaces opens a cell too, where that gives a row of the right width."""

    def __init__(self, lines: _RowLines, *, delimiter: str) -> None:
        self._lines = lines
        self._delimiter = delimiter
        self._plain = csv.reader(lines, strict=True, delimiter=delimiter)
        self._spaced_quote = re.compile(rf'(^|{re.escape(delimiter)}) +"', re.MULTILINE)
        # Spaces between cells mean nothing where they separate.
        self._spaced = (
            None
            if delimiter == " "
            else csv.reader(lines, strict=True, delimiter=delimiter, skipinitialspace=True)
        )

    def read(self, *, width: int | None = None) -> list[str] | None:
        """Read the cells of the next row, none of a blank line; None at the end of the file.

        Raises `RowError` for a damaged row, and `UserError` if a quote that it opened takes the rest of the file.
        """
        self._lines.begin()
        fault: csv.Error | None = None
        try:
            values = next(self._plain, None)
        except csv.Error as error:
            values, fault = None, error
        if (fault or any(map(_begins_with_spaced_quote, values or ()))) and (
            again := self._read_spaced(width)
        ):
            return again
        if fault is not None:
            raise self._explain(fault)
        return values

    def find_swallowed_rows(self, *, width: int) -> str | None:
        """Say why the lines of the row just read are taken for several rows between two stray quotes, or None."""
        inner = [line.text for line in self._lines.row[1:-1]]
        # Prose has a space after a comma, and rows seldom.
        if len(inner) * (width - 1) < _MIN_DELIMITERS or any(f"{self._delimiter} " in line for line in inner):
            return None
        try:
            if any(len(cells) != width for cells in csv.reader(inner, delimiter=self._delimiter)):
                return None
        except csv.Error:
            return None
        return (
            f"its quotes make one cell of {self._name_lines()}, which look like rows: {self._name_quote()}; if they "
            "are one text, write the file as JSONL"
        )

    def name_open_quote(self) -> str:
        """Say where the last quote of a row of several lines was opened; nothing of a row of one line."""
        if len(self._lines.row) == 1:
            return ""
        return f"; it takes {self._name_lines()}: {self._name_quote()}"

    def _read_spaced(self, width: int | None) -> list[str] | None:
        """Read the row again with spaces before cells left out; None, after the plain row, if that does not fit.

        A quote after a space is text by RFC 4180, and never meant as text where it closes before the next delimiter.
        """
        lines = self._lines
        if self._spaced is None or self._spaced_quote.search(lines.text) is None:
            return None
        plain, ended = len(lines.row), lines.ended
        lines.ended = False
        lines.rewind()
        try:
            values = next(self._spaced, None)
        except (csv.Error, RowError, UserError):
            values = None
        if values and width in (None, len(values)):
            return values
        # Back to the end of the plain row.
        lines.rewind(count=plain)
        lines.ended = ended
        return None

    def _explain(self, error: csv.Error) -> RowError:
        lines = self._lines
        if lines.ended and len(lines.row) > 1:
            raise UserError(
                f"{lines.path}: the quote opened on line {self._find_quote()} is never closed and takes "
                f'{self._name_lines()}, the rest of the file; close it, or double a quote that is text (""), or get '
                "the file again if it breaks off."
            )
        said = "its quote is never closed" if lines.ended else f"damaged CSV: {error}"
        if len(lines.row) == 1:
            return RowError(f'{said}; close each quote, and double one that is text ("")')
        return RowError(f"{said}{self.name_open_quote()}")

    def _name_lines(self) -> str:
        row = self._lines.row
        return f"lines {row[0].number} to {row[-1].number}"

    def _name_quote(self) -> str:
        return f'close the quote opened on line {self._find_quote()}, or double it if it is text ("")'

    def _find_quote(self) -> int:
        """Find the line on which the row's last quoted cell begins."""
        text = self._lines.text
        ends = re.compile(rf"[{re.escape(self._delimiter)}\n]")
        opened = position = 0
        while position < len(text):
            if text[position] == '"':
                opened = position
                if (quoted := _QUOTED.match(text, position)) is None:
                    break
                position = quoted.end()
            if (end := ends.search(text, position)) is None:
                break
            position = end.end()
        return self._lines.first + text.count("\n", 0, opened)


def _begins_with_spaced_quote(cell: str) -> bool:
    return cell.startswith(" ") and cell.lstrip(" ").startswith('"')


def _choose_delimiter(lines: _RowLines, given: str | None) -> str:
    """Choose the delimiter, and leave the lines at the header."""
    try:
        stated = _STATED.fullmatch(next(lines, ""))
    except RowError:
        stated = None  # the header's reader reports the line
    if stated is None:
        lines.rewind()
        tabs = strip_compression(lines.path).suffix.lower() in TAB_SUFFIXES
        return given or ("\t" if tabs else ",")
    if given not in (None, stated[1]):
        raise UserError(
            f"{lines.path} names the delimiter {stated[1]!r} in its first line, and {given!r} is given; leave out "
            "`delimiter`, or correct the line."
        )
    return stated[1]


def _read_header(rows: _Rows, path: Path, columns: frozenset[str]) -> list[str]:
    try:
        header = [name.strip() for name in rows.read() or ()]
    except RowError as error:
        raise UserError(f"{path} has no readable CSV header ({error}); check the file.") from None
    if missing := sorted(columns.difference(header)):
        named = clean(", ".join(header))[:200]
        raise UserError(
            f"{path} lacks the column(s) {', '.join(missing)}; its first line names {named or 'nothing'}. "
            "Give a comma-separated file with a header."
        )
    if repeated := sorted(name for name, count in Counter(header).items() if name and count > 1):
        raise UserError(f"{path} names the column(s) {clean(', '.join(repeated))[:200]} twice; rename one.")
    return header
