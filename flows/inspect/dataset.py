"""Data sets of any format as Inspect samples, shown under one condition; rows that make no sample are counted."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from inspect_ai.dataset import Sample as InspectSample
from inspect_ai.model import ChatMessageUser, Content, ContentImage, ContentText
from pydantic import ValidationError

from cmrm.datasets import GENERAL_OPTIONS, Format, find_format, screen
from cmrm.datasets.splits import SplitRow, choose_anchors
from cmrm.errors import UserError
from cmrm.judges.references import read_references
from cmrm.prompts.conditions import TEXT_ONLY, Condition, missing, show
from cmrm.prompts.data_uri import to_png_uri
from cmrm.prompts.meaningless_images import MeaninglessImage
from cmrm.prompts.media_files import locate_file
from cmrm.prompts.sample import Rejected, Sample
from cmrm.untrusted.printable import show as show_text
from cmrm.untrusted.printable import show_value
from flows.plan.sources import fetch_files, make_source
from flows.spec.errors import explain_mistakes
from flows.spec.organism import place_dataset
from flows.spec.paths import start_dataset
from flows.spec.section import Section
from flows.spec.sections import AnchorsSpec, DatasetSpec
from storage.records.hashing import digest
from storage.records.layout import cache_folder

log = logging.getLogger("cmrm.inspect")

# Rejected rows that a log lists; all are counted.
MOST_LISTED = 100
MOST_REASONS = 5
# Fields of a sample in its metadata.
METADATA = ("dataset", "harmful", "question", "category", "twin", "image", "caption", "context")

AnySection = TypeVar("AnySection", bound=Section)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The usable samples of a data set but for its `anchors`, the rejected rows, and the folder of the images."""

    samples: Sequence[Sample]
    rejected: Sequence[Rejected]
    images: Path | None
    anchors: int


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Samples shown under a condition, and how many were left out, by what they lack."""

    samples: Sequence[InspectSample]
    lacking: Mapping[str, int]


def list_options(form: Format) -> list[str]:
    """List the options of a format that a task takes, besides its file and its image folder."""
    return sorted({*form.options, *GENERAL_OPTIONS})


def read_options(name: str, given: Mapping[str, Any]) -> DatasetSpec:
    """Check the options of a format as a spec's data set; relative paths start at the working folder.

    Raises `UserError` for an option that the format has not, with the list of those that it has, and for a value that
    a spec would refuse.
    """
    known = list_options(find_format(name))
    if unknown := sorted(given.keys() - {"path", "images", *known}):
        raise UserError(
            f"format {name!r} has no option {', '.join(map(show_value, unknown))}; it takes {', '.join(known)}."
        )
    # On Inspect's command line, one value is no list.
    categories = given.get("categories")
    one = {"categories": [categories]} if isinstance(categories, str) else {}
    dataset = check_section(DatasetSpec, {**given, **one, "format": name}, where=name)
    return place_dataset(start_dataset(Path.cwd(), name, dataset))


def check_section(kind: type[AnySection], content: Mapping[str, Any], *, where: str) -> AnySection:
    """Check a section as a spec's is; raises `UserError` with a line for each mistake, which begins with `where`."""
    try:
        return kind.model_validate(dict(content))
    except ValidationError as error:
        raise UserError("\n".join(f"{where}: {line}" for line in explain_mistakes(error, kind))) from None


def read_rows(name: str, dataset: DatasetSpec, *, anchors: AnchorsSpec, condition: Condition | None) -> Rows:
    """Read and screen the rows as a run does; the samples that a run with these `anchors` measures Δ on are left out.

    A `condition` that does not show the images needs no folder of them. Images inside rows, and those that rows name
    by URL, are kept in the user's cache if there is no image folder. Raises `UserError` as reading does, and if no row
    can be used.
    """
    kept = cache_folder() / "inspect" / digest(dataset.model_dump(mode="json"))[:16]
    source = make_source(name, dataset, files=fetch_files({name: dataset}), kept=kept, run=uuid4().hex)
    rows = list(source.read({}))
    sides = choose_anchors(
        (SplitRow.of(row) for row in rows if isinstance(row, Sample)),
        fractions=anchors.from_,
        seed=anchors.seed,
    )
    # Before images that are not shown are taken away.
    _refuse_media([row for row in rows if isinstance(row, Sample)], condition)
    folder = source.images or (kept if kept.is_dir() else None)
    if folder is None and condition not in (None, "image"):
        rows = [replace(row, image=None, media=()) if isinstance(row, Sample) else row for row in rows]
    screened = list(screen(rows, images=folder))
    rejected = [row for row in screened if isinstance(row, Rejected)]
    usable = [row for row in screened if isinstance(row, Sample)]
    samples = [sample for sample in usable if not sides.is_anchor_sample(sample)]
    if not usable:
        raise UserError(
            f"{show_text(dataset.path)}: none of its {len(rows)} rows can be used: {_list_reasons(rejected)}."
        )
    if not samples:
        raise UserError("anchors: every sample is an anchor, and none is left; give a smaller share.")
    if rejected:
        log.warning(
            "%s: %d of %d rows cannot be used and are not asked: %s",
            show_text(dataset.path),
            len(rejected),
            len(rows),
            _list_reasons(rejected),
        )
    return Rows(samples=samples, rejected=rejected, images=folder, anchors=len(usable) - len(samples))


def _refuse_media(samples: Sequence[Sample], condition: Condition | None) -> None:
    """Raise `UserError` for samples with several images, video or sound, where a condition shows them."""
    several = [sample for sample in samples if sample.media]
    if several and condition not in TEXT_ONLY:
        raise UserError(
            f"{len(several)} of {len(samples)} rows have several images, video or sound (first "
            f"{show_text(several[0].id)}), and an Inspect task shows one image; give the condition query, or rows with "
            "one image."
        )


def show_samples(
    rows: Rows, condition: Condition, *, meaningless: Mapping[Condition, MeaninglessImage]
) -> Shown:
    """Show samples under a condition, with the texts and the pixels of `cmrm.prompts.conditions.show`.

    A sample's own image stays a path, which Inspect reads when the sample starts; a meaningless one is a PNG in a data
    URI. Raises `UserError` if every sample lacks what the condition needs.
    """
    find = _image_finder(rows, condition, meaningless)
    lacking = Counter(lack for sample in rows.samples if (lack := missing(sample, condition)))
    shown = [
        _to_inspect(sample, condition, find(sample))
        for sample in rows.samples
        if missing(sample, condition) is None
    ]
    if not shown:
        raise UserError(
            f"condition {condition!r}: {' and '.join(lacking)} in any of the {len(rows.samples)} samples; "
            "give another condition, such as query."
        )
    if lacking:
        said = ", ".join(f"{count} with {lack}" for lack, count in lacking.items())
        log.warning(
            "condition %r: %d of %d samples are left out: %s",
            condition,
            sum(lacking.values()),
            len(rows.samples),
            said,
        )
    return Shown(samples=shown, lacking=dict(lacking))


def describe_rejected(rejected: Sequence[Rejected]) -> dict[str, Any]:
    """Describe rejected rows for a log: the counts by reason, and the first rows."""
    return {
        "rejected": len(rejected),
        "reasons": dict(Counter(row.reason for row in rejected).most_common(MOST_LISTED)),
        "rows": [{"line": row.line, "id": row.id, "reason": row.reason} for row in rejected[:MOST_LISTED]],
    }


def _image_finder(
    rows: Rows, condition: Condition, meaningless: Mapping[Condition, MeaninglessImage]
) -> Callable[[Sample], str | None]:
    recipe = meaningless.get(condition)
    if recipe is not None:
        uri = to_png_uri(recipe.render())
        return lambda _: uri
    if condition != "image":
        return lambda _: None
    folder = rows.images

    def find(sample: Sample) -> str:
        assert folder is not None  # screened
        assert sample.image is not None
        return str(locate_file(folder, sample.image))

    return find


def _to_inspect(sample: Sample, condition: Condition, image: str | None) -> InspectSample:
    # An image changes no text.
    words: Condition = "caption" if condition == "caption" else "query"
    text = show(sample, words, open_image=_open_none, open_media=_open_none, meaningless={}).text
    shown: list[Content] = [] if image is None else [ContentImage(image=image), ContentText(text=text)]
    return InspectSample(
        id=sample.id,
        input=[ChatMessageUser(content=shown or text)],
        target=read_references(sample.reference) or sample.reference or "",
        metadata={"condition": condition, **{name: getattr(sample, name) for name in METADATA}},
    )


def _open_none(name: object) -> Any:
    raise AssertionError(name)  # a text needs no image


def _list_reasons(rejected: Sequence[Rejected]) -> str:
    counts = Counter(row.reason for row in rejected)
    shown = [f"{show_text(reason)} ({count})" for reason, count in counts.most_common(MOST_REASONS)]
    left = len(counts) - len(shown)
    return ", ".join(shown) + (f", and {left} other reasons" if left > 0 else "")
