"""Export tables as CSV with raw numbers and as LaTeX."""

from __future__ import annotations

from collections.abc import Iterator

from flows.report.document import ReportCell, ReportTable
from tasks.report.figure import to_csv

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"\textbar{}",
    # At the start of a row LaTeX would parse these as an argument of the preceding line break.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "α": r"$\alpha$",
    "κ": r"$\kappa$",
    "Δ": r"$\Delta$",
    "−": r"$-$",
    "→": r"$\to$",
    "–": "--",
    "…": r"\ldots{}",
    "’": "'",
}
# Spreadsheets evaluate text that starts with one of these as a formula (CSV injection).
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_csv(table: ReportTable) -> bytes:
    """Write raw numbers, one record per line: fractions, counts and p values in full precision."""
    return to_csv(
        [
            {name: disarm(value) if isinstance(value, str) else value for name, value in record.items()}
            for record in table.records
        ]
    )


def write_latex(table: ReportTable) -> bytes:
    """Write a booktabs table with intervals as subscripts."""
    columns = "".join("r" if heading.numeric else "l" for heading in table.headings)
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(table.title)}.}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        r"\toprule",
        _join([escape(heading.title) for heading in table.headings]),
        *_write_rows(table),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines).encode("utf-8", "replace")


def disarm(text: str) -> str:
    """Write text for a cell of CSV so that no spreadsheet evaluates it: an apostrophe before what begins a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def escape(text: str) -> str:
    """Escape text for LaTeX on one line; unprintable characters are dropped."""
    shown = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    return "".join(LATEX.get(letter, letter) for letter in shown)


def _write_rows(table: ReportTable) -> Iterator[str]:
    for row_group in table.row_groups:
        yield r"\midrule"
        if row_group.title:
            yield rf"\multicolumn{{{len(table.headings)}}}{{@{{}}l}}{{\textit{{{escape(row_group.title)}}}}} \\"
        for row in row_group.rows:
            yield _join([_write_cell(cell) for cell in row])


def _write_cell(cell: ReportCell) -> str:
    if not cell.interval:
        return escape(cell.text)
    bounds = ", ".join(bound.replace("−", "-") for bound in (cell.low, cell.high))
    return f"{escape(cell.text)}$_{{[{bounds}]}}$"


def _join(cells: list[str]) -> str:
    return rf"{' & '.join(cells)} \\"
