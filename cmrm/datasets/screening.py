"""Set aside the samples that no model can be asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

from cmrm.datasets.coco import SPLIT_PREFIXES
from cmrm.datasets.rows import reject
from cmrm.errors import UserError
from cmrm.images import locate_image, open_image
from cmrm.samples import Rejected, Sample


def screen(rows: Iterable[Sample | Rejected], *, images: Path | None) -> Iterator[Sample | Rejected]:
    """Reject empty questions, ids that an accepted sample has, and images missing, outside the folder or unreadable.

    The rest passes in order. Every image is decoded once, since a truncated file shows only at its end. A name
    without COCO's split prefix finds the file that has it. Raises `UserError` when there is no such image folder,
    or none is given and a row names an image.
    """
    if images is not None and not images.is_dir():
        raise UserError(f"image folder {images} does not exist; correct the path of `images`.")
    seen: set[str] = set()
    opened: dict[str, str | None] = {}
    for row in rows:
        if isinstance(row, Rejected):
            yield row
            continue
        sample = row if images is None else _find_image(row, images)
        reason = _find_fault(sample, seen) or _find_image_fault(sample, images, opened)
        if reason is None:
            seen.add(sample.id)
            yield sample
        else:
            yield reject(
                dataset=sample.dataset,
                line=sample.line,
                identity=sample.id,
                reason=reason,
                raw=sample.question,
            )


def _find_image(sample: Sample, images: Path) -> Sample:
    if sample.image is None:
        return sample
    folder, slash, name = sample.image.rpartition("/")
    for prefix in ("", *SPLIT_PREFIXES):
        candidate = f"{folder}{slash}{prefix}{name}"
        try:
            locate_image(images, candidate)
        except UserError:
            continue
        return dataclasses.replace(sample, image=candidate)
    return sample


def _find_fault(sample: Sample, seen: set[str]) -> str | None:
    if not sample.question.strip():
        return "empty question"
    if sample.id in seen:
        return f"duplicate id {sample.id!r}"
    return None


def _find_image_fault(sample: Sample, images: Path | None, opened: dict[str, str | None]) -> str | None:
    if sample.image is None:
        return None
    if images is None:
        raise UserError(
            f"data set {sample.dataset!r} names images (first {sample.image!r}) but has no image folder; "
            "give its `images`."
        )
    # Thirty photographs serve ninety questions: each is decoded once.
    if sample.image not in opened:
        opened[sample.image] = _try_to_open(images, sample.image)
    return opened[sample.image]


def _try_to_open(images: Path, name: str) -> str | None:
    try:
        open_image(images, name)
    except UserError as error:
        return str(error)
    return None
