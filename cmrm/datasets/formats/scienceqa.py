"""ScienceQA: harmless multiple-choice questions from school science, half of them with an image.

Get `data/scienceqa/problems.json` from GitHub `lupantech/ScienceQA`, and the images with that repository's
`tools/download.sh`; licence CC BY-NC-SA 4.0. The Hugging Face copy `derek-thomas/ScienceQA` has another layout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cmrm.datasets.choices import LETTERS, ask_with_choices, get_choices
from cmrm.datasets.documents import KEY, read_entries
from cmrm.datasets.fields import RowError, get_id, get_text, get_text_or_none, join_names, name_type
from cmrm.datasets.format import Format
from cmrm.datasets.rows import Record, make_samples
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample


def read_scienceqa(path: Path, *, dataset: str, split: str = "test") -> Iterator[Sample | Rejected]:
    """Read `problems.json`: id → `question`, `choices`, `answer` (an index), `hint`, `image`, `split`, and more.

    Kept are the problems whose own field says `split` (train, val or test); id = the problem's. The question holds
    the hint, the question, the choices as "(A) …" and a request for a letter; the reference is the right letter; the
    category is subject/topic. The image is `<split>/<id>/image.png` in the folder of images, where there is one.
    Raises `UserError` when no problem is of the split.
    """
    if not isinstance(split, str):
        raise UserError(f"data set {dataset!r}: split is {split!r}; give train, val or test.")

    def make(record: Record) -> Sample:
        fields = record.fields
        identity = get_id(fields, KEY)
        get_text(fields, "split")
        choices = get_choices(fields, "choices")
        image = get_text_or_none(fields, "image")
        return Sample(
            id=identity,
            dataset=dataset,
            question=_ask(fields, choices),
            harmful=False,
            image=None if image is None else f"{split}/{identity}/{image}",
            category=join_names(get_text_or_none(fields, "subject"), get_text_or_none(fields, "topic")),
            reference=_get_letter(fields, choices),
            line=record.line,
        )

    entries = read_entries(path, dataset=dataset, containers=("object",))
    return make_samples(_choose_split(entries, split, path), make, dataset=dataset, id_field=KEY)


def _choose_split(
    records: Iterable[Record | Rejected], split: str, path: Path
) -> Iterator[Record | Rejected]:
    """Skip the problems of other splits; one with an invalid split is kept, to be rejected."""
    counts: Counter[str] = Counter()
    for record in records:
        known = None if isinstance(record, Rejected) else record.fields.get("split")
        if isinstance(known, str):
            counts[known] += 1
        if known == split or not isinstance(known, str):
            yield record
    if counts and not counts[split]:
        found = ", ".join(f"{name!r} ({count})" for name, count in counts.most_common(10))
        raise UserError(f"{path} has no problem of the split {split!r}; there are {found}.")


def _ask(fields: Mapping[str, Any], choices: list[str]) -> str:
    hint = get_text_or_none(fields, "hint")
    question = get_text(fields, "question").strip()
    if not question:
        return ""  # screening rejects it
    asked = ask_with_choices(question, choices)
    return asked if hint is None else f"Context: {hint.strip()}\n{asked}"


def _get_letter(fields: Mapping[str, Any], choices: list[str]) -> str:
    answer = fields.get("answer")
    if not isinstance(answer, int) or isinstance(answer, bool):
        raise RowError(f"field 'answer' is {name_type(answer)}, not the number of a choice")
    if not 0 <= answer < len(choices):
        raise RowError(f"field 'answer' is {answer}, but there are {len(choices)} choices")
    return LETTERS[answer]


FORMAT = Format(
    read=read_scienceqa,
    harmful=False,
    options=frozenset(("split",)),
    judges=("choice",),
    title="ScienceQA",
    address="https://github.com/lupantech/ScienceQA",
)
