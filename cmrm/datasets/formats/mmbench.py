"""MMBench: some 3,000 harmless multiple-choice questions about images in 20 abilities, English or Chinese.

Get `mmbench_dev_en_20231003.tsv` or one of its siblings from the links in the README of GitHub `open-compass/MMBench`,
or `MMBench_DEV_EN.tsv`, which has each question once more for every rotation of its choices, from those of
`open-compass/VLMEvalKit`; their licence stands there. The images are in the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cmrm.datasets.choices import LETTERS, ask_with_choices
from cmrm.datasets.csv_rows import read_table
from cmrm.datasets.fields import RowError, cut, get_id, get_text, get_text_or_none, join_names
from cmrm.datasets.format import Format
from cmrm.datasets.held_media import keep_file, read_held
from cmrm.datasets.rows import Record, make_samples
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample

COLUMNS = frozenset(("index", "question", "image", "A", "B"))
# A shorter cell is the index of the row that has the image.
LONGEST_INDEX = 64


def read_mmbench(path: Path, *, dataset: str, images: Path | None = None) -> Iterator[Sample | Rejected]:
    """Read tab-separated `index,question,hint,A,B,C,D,answer,category,l2-category,image`, ignoring other columns.

    id = `index`. The question holds the hint, the question, the choices as "(A) …" and a request for a letter; the
    reference is the right letter, which the test files do not have; the category is l2-category/category. An image is
    base64, or the index of the row that has it; it is kept in the folder `images`, and decides the side of the split:
    the rotations of a question share it. Raises `UserError` where there is no such folder. The file is read twice,
    since a row may refer to an image further down.
    """
    if images is None:
        raise UserError(
            f"data set {dataset!r} holds images in its rows, and there is no folder to keep them in; give its `images`."
        )
    kept = _keep_images(path, dataset=dataset, images=images)

    def make(record: Record) -> Sample:
        fields = record.fields
        choices = _get_choices(fields)
        image = _find_image(fields, kept)
        category = get_text_or_none(fields, "l2-category") or get_text_or_none(fields, "L2-category")
        return Sample(
            id=get_id(fields, "index"),
            dataset=dataset,
            question=_ask(fields, choices),
            harmful=False,
            image=image,
            category=join_names(category, get_text_or_none(fields, "category")),
            reference=_get_letter(fields, choices),
            group=image,
            line=record.line,
        )

    yield from make_samples(
        read_table(path, dataset=dataset, columns=COLUMNS, delimiter="\t"),
        make,
        dataset=dataset,
        id_field="index",
    )


def _keep_images(path: Path, *, dataset: str, images: Path) -> dict[str, str | RowError]:
    """Extract the embedded images; map each row's index to its file name, or to the error."""
    kept: dict[str, str | RowError] = {}
    for record in read_table(path, dataset=dataset, columns=COLUMNS, delimiter="\t"):
        if isinstance(record, Rejected) or len(record.fields["image"]) <= LONGEST_INDEX:
            continue
        try:
            content = read_held(record.fields["image"])
            if content is None:
                raise RowError("its image is neither base64 nor the index of a row")
            kept[record.fields["index"].strip()] = keep_file(content, images)
        except RowError as error:
            kept[record.fields["index"].strip()] = error
    return kept


def _find_image(fields: Mapping[str, Any], kept: Mapping[str, str | RowError]) -> str | None:
    cell = get_text(fields, "image").strip()
    if not cell:
        return None
    index = cell if len(cell) <= LONGEST_INDEX else get_id(fields, "index")
    found = kept.get(index)
    if found is None:
        raise RowError(f"its image is that of row {cut(index)!r}, which has none")
    if isinstance(found, RowError):
        raise RowError(str(found))
    return found


def _get_choices(fields: Mapping[str, Any]) -> list[str]:
    choices = [get_text_or_none(fields, letter) for letter in LETTERS if letter in fields]
    filled = [choice.strip() for choice in choices if choice is not None]
    if len(filled) < 2 or None in choices[: len(filled)]:
        raise RowError(
            f"it has {len(filled)} choices, or a gap between them; two and more are asked, from A on"
        )
    return filled


def _ask(fields: Mapping[str, Any], choices: list[str]) -> str:
    hint = get_text_or_none(fields, "hint")
    asked = ask_with_choices(get_text(fields, "question"), choices)
    return f"Hint: {hint.strip()}\n{asked}" if hint is not None and asked else asked


def _get_letter(fields: Mapping[str, Any], choices: list[str]) -> str | None:
    answer = get_text_or_none(fields, "answer")
    if answer is None:
        return None
    if answer.strip() not in LETTERS[: len(choices)] or len(answer.strip()) != 1:
        raise RowError(f"field 'answer' is {cut(answer)!r}, the letter of none of the {len(choices)} choices")
    return answer.strip()


FORMAT = Format(
    read=read_mmbench,
    harmful=False,
    needs=frozenset(("images",)),
    judges=("choice",),
    title="MMBench",
    address="https://github.com/open-compass/MMBench",
)
