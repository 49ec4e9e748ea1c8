"""Screening: reject samples with an empty question, a duplicate id or an unusable file (quarantine)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from cmrm.datasets.fields import cut
from cmrm.datasets.image_folder import ImageFolder
from cmrm.datasets.rows import reject
from cmrm.errors import MissingPackageError, UserError
from cmrm.prompts.media import Medium
from cmrm.prompts.open_medium import open_medium
from cmrm.prompts.sample import Rejected, Sample
from cmrm.untrusted.printable import is_blank
from cmrm.untrusted.regular_file import refuse_no_image_folder


def screen(rows: Iterable[Sample | Rejected], *, images: Path | None) -> Iterator[Sample | Rejected]:
    """Reject empty questions, duplicate ids, and files that are missing, outside the folder or unreadable.

    Other samples pass in order. Each file is decoded once, since a truncated file fails only at its end. An image may
    be stored under a known variant of its name (`ImageFolder.find`). Raises `UserError` if the image folder does not
    exist, or none is given and a row names a file, and `MissingPackageError` for a file that needs a package that is
    not installed.
    """
    if images is not None:
        refuse_no_image_folder(images)
    folder = None if images is None else ImageFolder(images)
    seen: set[str] = set()
    opened: dict[Medium, str | None] = {}
    for row in rows:
        if isinstance(row, Rejected):
            yield row
            continue
        sample = row if folder is None else _name_files(row, folder)
        reason = _find_fault(sample, seen) or _find_media_fault(sample, folder, opened)
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


def _name_files(sample: Sample, folder: ImageFolder) -> Sample:
    """Replace the names of a sample's media by the names of their files, where they are found."""
    if not sample.shown:
        return sample
    found = [folder.find(one.name) for one in sample.shown]
    return sample.rename(
        [one.name if file is None else file[0] for one, file in zip(sample.shown, found, strict=True)]
    )


def _find_fault(sample: Sample, seen: set[str]) -> str | None:
    if is_blank(sample.question):
        return "empty question"
    if sample.id in seen:
        return f"duplicate id {cut(sample.id)!r}"
    return None


def _find_media_fault(
    sample: Sample, folder: ImageFolder | None, opened: dict[Medium, str | None]
) -> str | None:
    for medium in sample.shown:
        if folder is None:
            raise _no_folder(sample, medium)
        # Several questions share an image, which is decoded once.
        if medium not in opened:
            opened[medium] = _try_to_open(folder, medium, sample.dataset)
        if (reason := opened[medium]) is not None:
            return reason
    return None


def _no_folder(sample: Sample, medium: Medium) -> UserError:
    if medium.kind == "image":
        return UserError(
            f"data set {sample.dataset!r} names images (first {cut(medium.name)!r}) but has no image folder; "
            "give its `images`."
        )
    return UserError(
        f"data set {sample.dataset!r} names {medium.kind} (first {cut(medium.name)!r}) but has no folder of files; "
        f"give it as `images`, or write `columns: {{{medium.kind}: []}}` if that column names none."
    )


def _try_to_open(folder: ImageFolder, medium: Medium, dataset: str) -> str | None:
    try:
        open_medium(folder.root, medium)
    except MissingPackageError:
        raise
    except UserError as error:
        found = folder.find(medium.name)
        hint = "" if found else folder.explain(medium.name, dataset=dataset)
        return f"{str(error).rstrip('.')}{hint}." if hint else str(error)
    return None
