"""Hugging Face data sets: stream a split from the hub by id and revision, or from a local folder.

Needs the optional package `datasets`. The licence stands on the data set's own page; a gated one needs a login with
`hf auth login`. No remote code is run.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from cmrm.datasets.columns import read_columns
from cmrm.datasets.fields import RowError, clean
from cmrm.datasets.format import IMAGES, OWN_JUDGES, OWN_OPTIONS, FetchImages, Format
from cmrm.datasets.held_media import make_own_samples, read_held
from cmrm.datasets.parquet_rows import number_rows
from cmrm.errors import UserError
from cmrm.prompts.media import MediumKind
from cmrm.prompts.sample import Rejected, Sample

MAX_REASON_CHARACTERS = 400

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def read_huggingface(
    path: Path,
    *,
    dataset: str,
    images: Path | None,
    fetch_images: FetchImages | None = None,
    revision: str | None = None,
    split: str = "train",
    config: str | None = None,
    columns: Mapping[str, str] | None = None,
    harmful: bool | Mapping[str, Any] = True,
    constants: Mapping[str, str] | None = None,
) -> Iterator[Sample | Rejected]:
    """Stream one split of the data set whose hub id, or local folder, is `path`; a row's line is its number.

    `columns`, `harmful` and `constants` are those of `jsonl`. `config` names one of the data set's own
    configurations. An embedded file is extracted to the folder `images` (`held_media`); a file name in a column of
    media is relative to that folder. Raises `UserError` if `datasets` is not installed, if the data set, revision,
    configuration, split or column does not exist, and for images without a folder.
    """
    own = read_columns(columns, dataset=dataset, harmful=harmful, constants=constants)
    names = [column.name for column in own.media.columns]
    library = _import_datasets()
    load = partial(_load, library, path, revision=revision, split=split, config=config)

    def read_rows() -> Iterator[Mapping[str, Any]]:
        for place, row in enumerate(_stream(load, library, path, names)):
            if place == 0:
                own.check_header(row)
            yield row

    records = own.watch(number_rows(read_rows()))

    read = partial(_read_held, folder=path)
    return make_own_samples(records, own, images=images, fetch_images=fetch_images, read=read)


def _import_datasets() -> ModuleType:
    try:
        import datasets
    except ImportError:
        raise UserError(
            "the format 'huggingface' needs the package datasets, which is not installed; "
            "run `pip install 'cmrm[datasets]'`."
        ) from None
    return datasets


def _load(
    library: ModuleType, path: Path, *, revision: str | None, split: str, config: str | None
) -> Iterable[Mapping[str, Any]]:
    name = str(path)
    if not path.is_dir() and not _HUB_ID.fullmatch(name):
        raise UserError(f"{name} is neither a folder nor the id of a data set, such as owner/name.")
    return library.load_dataset(name, config, revision=revision, split=split, streaming=True)


def _stream(
    load: Callable[[], Any], library: ModuleType, path: Path, media: Iterable[str]
) -> Iterator[Mapping[str, Any]]:
    try:
        rows = load()
        for name in media:
            feature = (rows.features or {}).get(name)
            # Without decoding, so that a damaged image rejects its row and does not end the iteration.
            if (plain := _leave_encoded(feature, library)) is not feature:
                rows = rows.cast_column(name, plain)
        yield from rows
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - the library raises nearly any exception
        reason = " ".join(clean(str(error)).split())[:MAX_REASON_CHARACTERS] or type(error).__name__
        raise UserError(
            f"the data set {path} cannot be read ({reason}); check its id, revision, config and split, and that the "
            "hub can be reached or the data set is in its cache."
        ) from None


def _leave_encoded(feature: object, library: ModuleType) -> object:
    """Return a column's feature with its images, videos and sounds left as they are stored; the same if it has none."""
    if isinstance(feature, library.Image | library.Video | library.Audio):
        return dataclasses.replace(feature, decode=False)
    if isinstance(feature, library.List):
        inside = _leave_encoded(feature.feature, library)
        return feature if inside is feature.feature else library.List(inside)
    return feature


def _read_held(held: object, kind: MediumKind, folder: Path) -> bytes | None:
    """Read an embedded file; a mapping without bytes names a file of the data set itself."""
    if not isinstance(held, dict) or held.get("bytes") is not None:
        return read_held(held, kind)
    location = held.get("path")
    if not isinstance(location, str):
        raise RowError(f"the {kind}'s column holds neither bytes nor a file name")
    if not _is_its_own(location, folder):
        raise RowError(f"its {kind} {location[:200]!r} lies outside the data set")
    from datasets.utils.file_utils import xopen

    try:
        with xopen(location, "rb") as file:
            read: bytes = file.read()
    except (OSError, ValueError) as error:
        raise RowError(f"its {kind} cannot be opened: {error}") from None
    return read


def _is_its_own(location: str, folder: Path) -> bool:
    """Whether a path, perhaps in an archive (`zip://a.png::archive.zip`), is on the hub or in the local folder.

    Cells are untrusted: a path could name any file of this machine, or any URL.
    """
    source = location.rpartition("::")[2]
    if "://" in source:
        return source.startswith("hf://")
    return folder.is_dir() and Path(source).resolve().is_relative_to(folder.resolve())


FORMAT = Format(
    read=read_huggingface,
    harmful=None,
    options=OWN_OPTIONS | {"revision", "split", "config"},
    needs=IMAGES,
    judges=OWN_JUDGES,
)
