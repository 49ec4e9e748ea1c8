"""SIUO: safe images with safe questions that only together ask for something unsafe, in nine categories.

Get `siuo_gen.json` or `siuo_mcqa.json` from GitHub `sinwang20/SIUO` (folder `data`) or Hugging Face `sinwang/SIUO`, and
the images (`S-01.png` …) from there as a folder `images`; licence CC BY-NC 4.0, for research only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cmrm.datasets.choices import LETTERS, ask_with_choices, get_letter
from cmrm.datasets.documents import read_entries
from cmrm.datasets.fields import RowError, get_filled_text, get_id, get_text, get_text_or_none, name_type
from cmrm.datasets.format import Format
from cmrm.datasets.rows import Record, make_samples
from cmrm.prompts.sample import Rejected, Sample


def read_siuo(path: Path, *, dataset: str) -> Iterator[Sample | Rejected]:
    """Read a JSON list of `question_id`, `image`, `question`, `category`, and what either file adds.

    `siuo_gen.json` adds `reference_answer`, the sample's reference, and `safety_warning`, which is not read: its
    questions are harmful. `siuo_mcqa.json` adds `options`, by letter, and `correct_option`: its samples are harmless,
    for a good model names the letter of the safe option, which is the reference. id = `question_id`, the same in both
    files; the question without its options decides the side of the split.
    """

    def make(record: Record) -> Sample:
        fields = record.fields
        question = get_text(fields, "question")
        options = _get_options(fields) if fields.get("options") is not None else None
        return Sample(
            id=get_id(fields, "question_id"),
            dataset=dataset,
            question=question if options is None else ask_with_choices(question, options),
            harmful=options is None,
            image=get_text(fields, "image"),
            category=get_text_or_none(fields, "category"),
            reference=get_text_or_none(fields, "reference_answer")
            if options is None
            else get_letter(
                {"correct_option": get_filled_text(fields, "correct_option")}, "correct_option", options
            ),
            group=None if options is None else question,
            line=record.line,
        )

    entries = read_entries(path, dataset=dataset, containers=("list",))
    return make_samples(entries, make, dataset=dataset, id_field="question_id")


def _get_options(fields: Mapping[str, Any]) -> list[str]:
    options = fields["options"]
    if not isinstance(options, dict):
        raise RowError(f"field 'options' is {name_type(options)}, not an object of texts by letter")
    if not options or list(options) != list(LETTERS[: len(options)]):
        raise RowError("field 'options' is not an object of texts under A, B, C and so on")
    return [get_filled_text(options, letter).strip() for letter in options]


FORMAT = Format(
    read=read_siuo,
    harmful=None,
    judges=("refusal", "choice"),
    title="SIUO",
    address="https://github.com/sinwang20/SIUO",
)
