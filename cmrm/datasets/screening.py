"""Set aside the samples that no model can be asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from cmrm.datasets.coco import SPLIT_PREFIXES
from cmrm.datasets.rows import reject
from cmrm.errors import UserError
from cmrm.images import locate_image, open_image
from cmrm.samples import Rejected, Sample

# Where a published file names its images as `images/1.png`, people give either folder.
IMAGES_FOLDER = "images/"
SUFFIXES = ("png", "jpg", "jpeg", "webp")
_SPELLINGS = (("Activitiy", "Activity"), ("Activity", "Activitiy"))


def screen(rows: Iterable[Sample | Rejected], *, images: Path | None) -> Iterator[Sample | Rejected]:
    """Reject empty questions, ids that an accepted sample has, and images missing, outside the folder or unreadable.

    The rest passes in order. Every image is decoded once, since a truncated file shows only at its end. An image that
    is kept under another of its usual names (`_names`) is found by it. Raises `UserError` when there is no such image
    folder, or none is given and a row names an image.
    """
    if images is not None and not images.is_dir():
        raise UserError(f"image folder {images} does not exist; correct the path of `images`.")
    seen: set[str] = set()
    opened: dict[str, str | None] = {}
    for row in rows:
        if isinstance(row, Rejected):
            yield row
            continue
        sample = row if images is None else _name_file(row, images)
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


def find_image(images: Path, name: str) -> Path | None:
    """Find the file of the image `name` in the folder, by that or another of its usual names, or None."""
    found = _find_named(images, name)
    return None if found is None else found[1]


def _name_file(sample: Sample, images: Path) -> Sample:
    """Name the image as its file is named, if it can be found."""
    found = None if sample.image is None else _find_named(images, sample.image)
    return sample if found is None else dataclasses.replace(sample, image=found[0])


def _find_named(images: Path, name: str) -> tuple[str, Path] | None:
    """The first of an image's usual names under which the folder has a file, and that file."""
    for candidate in _names(name):
        with suppress(UserError):
            return candidate, locate_image(images, candidate)
    return None


def _names(name: str) -> Iterator[str]:
    """The names under which an image is found, the given one first.

    COCO 2014 puts the split before the number; MM-SafetyBench misspells a scenario, which people mend; MOSSBench's
    folder is given with its last part or without, and its images are there as PNG and as WebP.
    """
    folder, slash, file = name.rpartition("/")
    yield name
    for prefix in SPLIT_PREFIXES:
        yield f"{folder}{slash}{prefix}{file}"
    for one, other in _SPELLINGS:
        if one in name:
            yield name.replace(one, other)
    bare = name.removeprefix(IMAGES_FOLDER)
    if bare != name:
        yield bare
    stem, dot, suffix = name.rpartition(".")
    if dot and suffix.lower() in SUFFIXES:
        for other in SUFFIXES:
            yield f"{stem}.{other}"
            if bare != name:
                yield f"{stem.removeprefix(IMAGES_FOLDER)}.{other}"


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
