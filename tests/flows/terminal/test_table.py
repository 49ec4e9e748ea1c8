"""Tables for a terminal: plain text that is the same everywhere, columns as wide as their text, or as fits."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.terminal.table import (
    GAP,
    WIDTH,
    TableColumn,
    choose_columns,
    fit_widths,
    make_table,
    measure_text,
)

WIDTHS = st.lists(st.integers(1, 60), min_size=1, max_size=8)


def draw(table: Table, width: int = WIDTH) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_table_has_two_spaces_between_its_columns_and_no_lines() -> None:
    table = make_table(
        [
            TableColumn(),
            TableColumn(title=Text("Unsafe\nvlsafe"), justify="right"),
            TableColumn(title="By", justify="right"),
        ]
    )
    table.add_row("Query", "0.0", "me")
    table.add_row("Blank image", "63.3", "somebody")
    assert draw(table) == [
        "             Unsafe",
        "             vlsafe        By",
        "Query           0.0        me",
        "Blank image    63.3  somebody",
    ]


def test_a_table_without_titles_has_no_header() -> None:
    table = make_table([TableColumn(width=4), TableColumn()])
    table.add_row("a", "b")
    assert draw(table) == ["a     b"]


def test_a_text_that_is_too_long_is_folded_and_nothing_of_it_is_lost() -> None:
    table = make_table([TableColumn(title="Name", widest=5), TableColumn(title="n", justify="right")])
    table.add_row("abcdefghijkl", "7")
    assert draw(table) == ["Name   n", "abcde  7", "fghij", "kl"]


def test_a_column_that_does_not_wrap_stays_whole_where_another_can_be_folded() -> None:
    table = make_table([TableColumn(), TableColumn(no_wrap=True, justify="right")])
    table.add_row("many words that can be folded", "12.3 [10–14]")
    assert draw(table, width=30)[0].endswith("  12.3 [10–14]")


@pytest.mark.parametrize(
    ("text", "cells"), [("", 0), ("ab\nabcd\n", 4), ("日本", 4), ("é", 1), ("e\u0301", 1)]
)
def test_a_text_is_as_wide_as_its_longest_line_in_terminal_cells(text: str, cells: int) -> None:
    assert measure_text(text) == measure_text(Text(text)) == measure_text("", text) == cells


@given(wanted=WIDTHS, narrowest=st.integers(1, 60), width=st.integers(1, 200))
def test_widths_fill_the_line_and_never_pass_it(wanted: list[int], narrowest: int, width: int) -> None:
    found = fit_widths(wanted, [narrowest] * len(wanted), width=width)
    gaps = GAP * (len(wanted) - 1)
    least = [min(want, narrowest) for want in wanted]
    if sum(least) + gaps > width:
        assert found is None
        return
    assert found is not None
    assert sum(found) + gaps == min(width, sum(wanted) + gaps)
    assert all(low <= one <= want for low, one, want in zip(least, found, wanted, strict=True))


def test_the_column_that_lacks_least_is_widened_first() -> None:
    assert fit_widths([30, 12, 6], [10, 10, 10], width=40) == [18, 12, 6]


def test_columns_are_chosen_in_the_order_given_as_long_as_they_fit() -> None:
    # 20 and three gaps of 2 leave 54 cells of 80: the second does not fit beside the first, the others do.
    assert choose_columns(20, [30, 40, 12, 12]) == [0, 2, 3]
    assert choose_columns(20, [30, 40, 12, 13]) == [0, 2]


def test_one_column_is_shown_even_if_it_does_not_fit() -> None:
    assert choose_columns(30, [90, 10]) == [0]


@given(first=st.integers(0, 30), widths=WIDTHS)
def test_no_column_is_left_out_that_would_have_fitted(first: int, widths: list[int]) -> None:
    chosen = choose_columns(first, widths)
    used = first + sum(GAP + widths[place] for place in chosen)
    assert used <= WIDTH or chosen == [0]
    assert all(used + GAP + own > WIDTH for place, own in enumerate(widths) if place not in chosen)
