"""Sources of a spec's data sets: remote files downloaded, and options as their formats take them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from cmrm.errors import UserError
from flows.spec.sections import DatasetSpec
from storage.backends.remote_files import RemoteFileError, fetch_file
from tasks.data.sources import Source

# Fields of a data set, besides its own file, that name a file and go to its format.
FILE_OPTIONS = ("answers", "captions")


def make_source(
    name: str,
    dataset: DatasetSpec,
    *,
    files: Mapping[str, Path],
    kept: Path,
    fraction: float = 0.0,
    run: str = "",
) -> Source:
    """Make the source of a data set; `files` maps its URLs to local copies, and `kept` is for images inside its rows.

    `fraction` is the anchors' share, and `run` identifies the reading in downloads of images.
    """

    def find(path: Path | str) -> Path:
        return path if isinstance(path, Path) else files[path]

    return Source(
        dataset=name,
        format=dataset.format,
        path=find(dataset.path),
        images=dataset.images if isinstance(dataset.images, Path) else None,
        options={
            option: find(value) if option in FILE_OPTIONS else value
            for option, value in dataset.options().items()
        },
        fraction=fraction,
        limit=dataset.limit,
        kept=kept,
        url=dataset.path if isinstance(dataset.path, str) else None,
        images_url=dataset.images if isinstance(dataset.images, str) else None,
        run=run,
    )


def fetch_files(datasets: Mapping[str, DatasetSpec]) -> dict[str, Path]:
    """Download all remote files of data sets, except image folders; returns local paths by URL.

    Raises `UserError` naming the field of a file that cannot be downloaded.
    """
    return fetch_named(
        (f"datasets.{name}.{field_name}", getattr(dataset, field_name))
        for name, dataset in datasets.items()
        for field_name in ("path", "pair_with", *FILE_OPTIONS)
    )


def fetch_named(named: Iterable[tuple[str, Path | str | None]]) -> dict[str, Path]:
    """Download the files of those fields, given by name, that are URLs; returns and raises as `fetch_files` does."""
    found: dict[str, Path] = {}
    for field_name, url in named:
        if isinstance(url, str) and url not in found:
            try:
                found[url] = fetch_file(url)
            except RemoteFileError as error:
                raise UserError(f"{field_name}: {error}.") from None
    return found
