"""JSON files of a user's own requests: a list of rows, an object with such a list, or an object of id → row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cmrm.datasets.columns import read_columns
from cmrm.datasets.documents import MAX_NAMED, open_document, read_entries
from cmrm.datasets.fields import cut
from cmrm.datasets.format import IMAGES, OWN_JUDGES, OWN_OPTIONS, FetchImages, Format
from cmrm.datasets.held_media import make_own_samples
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample


def read_json(
    path: Path,
    *,
    dataset: str,
    rows: str | None = None,
    images: Path | None = None,
    fetch_images: FetchImages | None = None,
    columns: Mapping[str, str] | None = None,
    harmful: bool | Mapping[str, Any] = True,
    constants: Mapping[str, str] | None = None,
) -> Iterator[Sample | Rejected]:
    """Stream the rows of one JSON document of any size; only the question is required.

    `rows` is the dotted path of the list (or the object of id → row) that holds them; without it they are the document
    itself, or the one list of objects in it. A key is its row's id, where the row has none. The other options are those
    of `jsonl`. Raises `UserError` for a damaged document, or if it is ambiguous where the rows are.
    """
    own = read_columns(columns, dataset=dataset, harmful=harmful, constants=constants)
    inside = _find_rows(path) if rows is None else rows.split(".")
    records = read_entries(path, dataset=dataset, containers=("list", "object"), inside=inside)
    return make_own_samples(own.watch(records), own, images=images, fetch_images=fetch_images)


def _find_rows(path: Path) -> list[str]:
    """Return the path of keys to a document's rows, empty if it is itself a list or an object of rows."""
    with open_document(path) as document:
        if document.peek() != "{":
            return []
        members = list(document.list_members())
    lists = [key for key, kind in members if kind == "list of objects"]
    if len(lists) == 1:
        return lists
    if not lists and all(kind == "object" for _, kind in members):
        return []
    shown = ", ".join(f"{cut(key, 40)} ({kind})" for key, kind in members[:MAX_NAMED])
    more = f" and {len(members) - MAX_NAMED} more" if len(members) > MAX_NAMED else ""
    what = "several lists of rows" if lists else "no list of rows"
    raise UserError(f"{path} holds {what}: {shown}{more}; name the right one, as in `rows: data`.")


FORMAT = Format(read=read_json, harmful=None, options=OWN_OPTIONS | {"rows"}, needs=IMAGES, judges=OWN_JUDGES)
