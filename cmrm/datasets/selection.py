"""Filter a data set by category, and raise for an empty data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample
from cmrm.untrusted.printable import show_names, show_value

# A user's file may have as many categories as rows; a message lists the most frequent.
MAX_NAMED = 40


def keep_categories(
    rows: Iterable[Sample | Rejected], categories: Sequence[str], *, dataset: str
) -> Iterator[Sample | Rejected]:
    """Keep the samples of the named categories; rejected rows pass, since their category is not known.

    Raises `UserError` at once for an empty list, and at the end for a category that no sample has.
    """
    if isinstance(categories, str) or not categories or not all(isinstance(name, str) for name in categories):
        raise UserError(
            f"data set {dataset!r}: categories is {categories!r}; give a list of category names, or leave it out."
        )
    wanted = frozenset(categories)
    return _filter(rows, wanted, dataset)


def refuse_nothing(rows: Iterable[Sample | Rejected], path: Path) -> Iterator[Sample | Rejected]:
    """Pass all rows through; raise `UserError` at the end if there was none."""
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise UserError(f"{path} holds no rows; give the file as it was published, or correct the path.")


def _filter(
    rows: Iterable[Sample | Rejected], wanted: frozenset[str], dataset: str
) -> Iterator[Sample | Rejected]:
    counts: Counter[str] = Counter()
    for row in rows:
        if isinstance(row, Rejected):
            yield row
            continue
        if row.category is not None:
            counts[row.category] += 1
        if row.category in wanted:
            yield row
    if unknown := sorted(wanted - counts.keys()):
        raise UserError(
            f"data set {dataset!r}: no sample is of the categories {show_names(list(map(show_value, unknown)))}; "
            f"there are {_list(counts)}."
        )


def _list(counts: Counter[str]) -> str:
    shown = counts.most_common(MAX_NAMED)
    named = ", ".join(f"{show_value(name)} ({count})" for name, count in sorted(shown))
    rest = f" and {len(counts) - len(shown)} more" if len(counts) > len(shown) else ""
    return f"{named}{rest}" if named else "no categories at all"
