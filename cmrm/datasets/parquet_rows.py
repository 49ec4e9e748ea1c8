"""Read rows of a Parquet file or a folder of Parquet shards, and extract images embedded in cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cmrm.datasets.compressed import refuse_what_is_no_file
from cmrm.datasets.fields import RowError, clean, cut, get_text, name_type
from cmrm.datasets.format import OpenRows
from cmrm.datasets.held_media import name_held
from cmrm.datasets.rows import RAW_CHARACTERS, Record
from cmrm.errors import UserError

# Called with the first row of a shard, and the shard's path.
CheckShard = Callable[[Mapping[str, Any], Path], None]

# How many columns an error message lists.
MAX_NAMED = 20


def find_shards(path: Path) -> list[Path]:
    """List the Parquet files of a folder, sorted by path, or the one file; raise `UserError` if there is none."""
    shards = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not shards:
        raise UserError(f"{path} holds no file that ends in .parquet; correct the path.")
    return shards


def read_shards(shards: Iterable[Path], open_rows: OpenRows, check: CheckShard) -> Iterator[Record]:
    """Stream the rows of Parquet files, numbered from 1 through all; `check` is called with the first row of each.

    Raises `UserError` for a file that is missing, damaged or not Parquet.
    """

    def read() -> Iterator[Mapping[str, Any]]:
        for shard in shards:
            for place, row in enumerate(_open(shard, open_rows)):
                if place == 0:
                    check(row, shard)
                yield row

    return number_rows(read())


def number_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[Record]:
    """Convert rows to records, numbered from 1."""
    for number, row in enumerate(rows, start=1):
        yield Record(line=number, fields=row, raw=_show(row))


def make_shard_check(names: Iterable[str], refuse_lack: CheckShard) -> CheckShard:
    """Make the check that shards agree on which of the columns `names` they have, after `refuse_lack`.

    The rows of a shard without one would lose a field that the others have, such as their image. The check raises
    `UserError` naming the shard.
    """
    names = sorted(names)
    first: list[tuple[Path, frozenset[str]]] = []

    def check(row: Mapping[str, Any], path: Path) -> None:
        # Of a dotted path, its first step is a column.
        found = frozenset(name for name in names if name in row or name.partition(".")[0] in row)
        if not first:
            refuse_lack(row, path)
            first.append((path, found))
        (known, expected), *_ = first
        for name in sorted(found ^ expected):
            lacking, having = (known, path) if name in found else (path, known)
            raise UserError(
                f"{lacking} has no column {name!r}, which {having.name} has; write both with the same columns, or make "
                "two data sets of them."
            )

    return check


def read_export(
    shards: Sequence[Path], open_rows: OpenRows, *, columns: frozenset[str], one_of: Sequence[str] = ()
) -> Iterator[Record]:
    """Read a published Parquet export that must have `columns`, and one of `one_of` if given.

    Raises `UserError` for a missing column, and for a file that is missing, damaged or not Parquet.
    """
    refuse_lack = partial(_refuse_lack, columns=columns, one_of=one_of)
    return read_shards(shards, open_rows, make_shard_check([*columns, *one_of], refuse_lack))


def get_held_image(fields: Mapping[str, Any], name: str, *, images: Path | None, dataset: str) -> str:
    """Return the file name of a row's image; an embedded image is extracted to the folder `images` first.

    Raises `RowError` if there is no image, or it cannot be decoded.
    """
    held = name_held(fields.get(name), images=images, dataset=dataset, column=name)
    if isinstance(held, bytes | dict | list):
        raise RowError(f"field {name!r} is {name_type(held)}, not an image")
    return get_text({name: held}, name)


def _refuse_lack(
    row: Mapping[str, Any], path: Path, *, columns: frozenset[str], one_of: Sequence[str]
) -> None:
    missing = sorted(columns.difference(row))
    if one_of and not any(name in row for name in one_of):
        missing.append(" or ".join(one_of))
    if missing:
        named = ", ".join(cut(str(name), 40) for name in list(row)[:MAX_NAMED]) or "none"
        raise UserError(
            f"{path} lacks the column(s) {', '.join(missing)}; it has {clean(named)}. Give the file as it was "
            "published, or read it with `format: parquet` and `columns`."
        )


def _open(path: Path, open_rows: OpenRows) -> Iterator[Mapping[str, Any]]:
    refuse_what_is_no_file(path)
    try:
        yield from open_rows(path)
    except UserError:
        raise
    # Base classes of Arrow's errors; a date outside Python's range, and an unknown time zone.
    except (OSError, ValueError, NotImplementedError, OverflowError, KeyError) as error:
        reason = clean(str(error)).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} cannot be read as Parquet ({reason}); check the file or write it again."
        ) from None


def _show(row: Mapping[str, Any]) -> str:
    # repr of a whole row would format an image's bytes in full.
    return "{" + ", ".join(f"{name!r}: {_show_cell(value)}" for name, value in row.items()) + "}"


def _show_cell(value: object) -> str:
    if isinstance(value, str):
        return repr(value[:RAW_CHARACTERS])
    return repr(value) if isinstance(value, bool | int | float | None) else f"<{name_type(value)}>"
