"""Screening: reject samples with an empty question, a duplicate id or an unusable image (quarantine)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

from cmrm.datasets.fields import cut
from cmrm.datasets.image_folder import ImageFolder
from cmrm.datasets.rows import reject
from cmrm.errors import UserError
from cmrm.prompts.images import open_image
from cmrm.prompts.sample import Rejected, Sample
from cmrm.untrusted.printable import is_blank
from cmrm.untrusted.regular_file import refuse_no_image_folder


def screen(rows: Iterable[Sample | Rejected], *, images: Path | None) -> Iterator[Sample | Rejected]:
    """Reject empty questions, duplicate ids, and images that are missing, outside the folder or unreadable.

    Other samples pass in order. Each image is decoded once, since a truncated file fails only at its end. An image may
    be stored under a known variant of its name (`ImageFolder.find`). Raises `UserError` if the image folder does not
    exist, or none is given and a row names an image.
    """
    if images is not None:
        refuse_no_image_folder(images)
    folder = None if images is None else ImageFolder(images)
    seen: set[str] = set()
    opened: dict[str, str | None] = {}
    for row in rows:
        if isinstance(row, Rejected):
            yield row
            continue
        sample = row if folder is None else _name_file(row, folder)
        reason = _find_fault(sample, seen) or _find_image_fault(sample, folder, opened)
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


def _name_file(sample: Sample, folder: ImageFolder) -> Sample:
    """Replace the image's name by the name of its file, if it is found."""
    found = None if sample.image is None else folder.find(sample.image)
    return sample if found is None else dataclasses.replace(sample, image=found[0])


def _find_fault(sample: Sample, seen: set[str]) -> str | None:
    if is_blank(sample.question):
        return "empty question"
    if sample.id in seen:
        return f"duplicate id {cut(sample.id)!r}"
    return None


def _find_image_fault(
    sample: Sample, folder: ImageFolder | None, opened: dict[str, str | None]
) -> str | None:
    if sample.image is None:
        return None
    if folder is None:
        raise UserError(
            f"data set {sample.dataset!r} names images (first {cut(sample.image)!r}) but has no image folder; "
            "give its `images`."
        )
    # Several questions share an image, which is decoded once.
    if sample.image not in opened:
        opened[sample.image] = _try_to_open(folder, sample)
    return opened[sample.image]


def _try_to_open(folder: ImageFolder, sample: Sample) -> str | None:
    assert sample.image is not None
    try:
        open_image(folder.root, sample.image)
    except UserError as error:
        found = folder.find(sample.image)
        hint = "" if found else folder.explain(sample.image, dataset=sample.dataset)
        return f"{str(error).rstrip('.')}{hint}." if hint else str(error)
    return None
