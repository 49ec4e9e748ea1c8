"""`report.md`: a report as Markdown, with names, captions and reasons from outside escaped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from flows.report.document import Block, Document, Picture, ReportCell, ReportTable, RowGroup, Sentence

# Longer tables are cut here; the CSV files have all rows.
MOST_ROWS = 200
SPECIAL = "\\`*_{}[]<>#|!~&$"


def write_markdown(document: Document) -> str:
    """Write the whole report; it links figures in figures/ and table files in tables/."""
    lines = [f"# {escape(document.title)}", ""]
    for line in document.verdict:
        lines += [f"**{escape(line)}**", ""]
    for picture in document.pictures:
        lines += [*_write(picture), ""]
    for section in document.sections:
        lines += [f"## {escape(section.title)}", ""]
        for block in section.blocks:
            if isinstance(block, ReportTable) and section.titles_tables:
                lines += [f"### {escape(block.title)}", ""]
            lines += [*_write(block), ""]
    return "\n".join(lines)


def escape(text: str) -> str:
    """Escape text for use inside a line of Markdown."""
    escaped = "".join(f"\\{letter}" if letter in SPECIAL else letter for letter in " ".join(text.split()))
    # Bare addresses become links.
    return re.sub(r"\b(www)\.", r"\1\\.", escaped.replace("://", "\\://"), flags=re.IGNORECASE)


def escape_line(text: str) -> str:
    """Escape text at the start of a line, where it could become a list or a heading underline."""
    escaped = escape(text)
    return re.sub(r"^(\d+(?=[.)](?: |$))|(?=[-+=]))", r"\1\\", escaped)


def _write(block: Block) -> Iterator[str]:
    match block:
        case ReportTable():
            yield from write_table(block)
            yield f"As files: [CSV](tables/{block.name}.csv), [LaTeX](tables/{block.name}.tex)."
        case Picture():
            yield f"![{escape(block.caption)}](figures/{block.name}.png)"
        case Sentence():
            yield escape_line(block.text)
        case _:
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", block.text)), default=0))
            yield from (f"{fence}sh", " ".join(block.text.splitlines()), fence)


def write_table(table: ReportTable, *, most: int = MOST_ROWS) -> Iterator[str]:
    """Write the first rows of a table, and its note."""
    left = most
    for row_group in table.row_groups:
        if left <= 0:
            break
        if row_group.title:
            yield from (f"#### {escape(row_group.title)}", "")
        yield from _write_row_group(table, row_group, most=left)
        yield ""
        left -= len(row_group.rows)
    if table.length > most:
        yield from (f"… and {table.length - most:,} more rows, which tables/{table.name}.csv has.", "")
    if table.note:
        yield from (escape_line(table.note), "")


def _write_row_group(table: ReportTable, row_group: RowGroup, *, most: int) -> Iterator[str]:
    rule = ["---:" if heading.numeric else "---" for heading in table.headings]
    cells = [[_write_cell(cell) for cell in row] for row in row_group.rows[:most]]
    for row in ([escape(heading.title) for heading in table.headings], rule, *cells):
        yield f"| {' | '.join(row)} |"


def _write_cell(cell: ReportCell) -> str:
    # Bounds and counts are generated here; escaping them would make the file harder to read.
    return str(replace(cell, text=escape(cell.text)))
