"""MM-SafetyBench++: harmful requests in six scenarios, each with a harmless twin of nearly the same words and image.

Get the Parquet export from Hugging Face `EchoSafe-MLLM/MM-SafetyBench-plus-plus`; licence CC BY 4.0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cmrm.datasets.fields import RowError, content_id, cut, get_id, get_text
from cmrm.datasets.format import Format, OpenRows
from cmrm.datasets.parquet_rows import find_shards, get_held_image, read_export
from cmrm.datasets.rows import Record, make_samples
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample

LABELS: Mapping[str, bool] = MappingProxyType({"unsafe": True, "safe": False})
COLUMNS = frozenset(("image", "category", "mode", "label"))
# The export's own name, and that of the JSON files that it was made of.
QUESTIONS = ("question", "Changed Question")
# The export's own names of its two kinds of images.
VARIANTS = ("Gen", "GenOCR")
_PAIR = "<pair>"


def read_mm_safetybench_plus_plus(
    path: Path, *, dataset: str, open_rows: OpenRows, images: Path | None, variant: str = "Gen"
) -> Iterator[Sample | Rejected]:
    """Read the Parquet export, a file or a folder: `image`, `question`, `category`, `mode`, `label`.

    Kept are the rows whose `mode` is the variant, Gen or GenOCR. `label` says whether a question is unsafe (harmful) or
    safe. The nth unsafe and the nth safe row of a category are twins: category and number decide the side of the
    split. id = category, label, and a digest of question and image; an image is kept in the folder `images`.
    Raises `UserError` for another variant, when no row is of it, and, at the end, for a category with unequal
    numbers of unsafe and safe rows, whose twins cannot be matched.
    """
    if variant not in VARIANTS:
        raise UserError(f"data set {dataset!r}: variant is {variant!r}; choose {' or '.join(VARIANTS)}.")

    def make(record: Record) -> Sample:
        fields = record.fields
        category, label = get_id(fields, "category"), _get_label(fields)
        question = _get_question(fields)
        image = get_held_image(fields, "image", images=images, dataset=dataset)
        return Sample(
            id=f"{category}-{label}-{content_id(question, image)}",
            dataset=dataset,
            question=question,
            harmful=LABELS[label],
            image=image,
            category=category,
            group=f"{category} {fields[_PAIR]}",
            twin=f"{category} {fields[_PAIR]}",
            line=record.line,
        )

    records = read_export(find_shards(path), open_rows, columns=COLUMNS, one_of=QUESTIONS)
    return make_samples(_number_twins(records, variant, path), make, dataset=dataset)


def _number_twins(records: Iterable[Record], variant: str, path: Path) -> Iterator[Record]:
    """Skip the rows of other variants, and number the rest by category and label."""
    modes: Counter[str] = Counter()
    counts: dict[str, Counter[str]] = {}
    for record in records:
        try:
            mode = get_id(record.fields, "mode")
            category, label = get_id(record.fields, "category"), _get_label(record.fields)
        except RowError as error:
            raise UserError(
                f"{path}: row {record.line}: {error}, without which no row's twin can be told; get the file again."
            ) from None
        modes[mode] += 1
        if mode != variant:
            continue
        known = counts.setdefault(category, Counter())
        known[label] += 1
        yield replace(record, fields={**record.fields, _PAIR: known[label]})
    if modes and not counts:
        found = ", ".join(f"{cut(name)!r} ({count})" for name, count in modes.most_common(10))
        raise UserError(f"{path} has no row of the mode {variant!r}; there are {found}.")
    for category, known in counts.items():
        if known["unsafe"] != known["safe"]:
            raise UserError(
                f"{path} has {known['unsafe']} unsafe and {known['safe']} safe rows of {cut(category)!r}, which are "
                "twins by their order; get the file again, or read it with `format: parquet` and `columns`."
            )


def _get_label(fields: Mapping[str, Any]) -> str:
    label = get_id(fields, "label").lower()
    if label not in LABELS:
        raise RowError(f"field 'label' is {cut(label)!r}, none of {', '.join(LABELS)}")
    return label


def _get_question(fields: Mapping[str, Any]) -> str:
    return get_text(fields, next((name for name in QUESTIONS if name in fields), QUESTIONS[0]))


FORMAT = Format(
    read=read_mm_safetybench_plus_plus,
    harmful=None,
    options=frozenset(("variant",)),
    needs=frozenset(("images", "open_rows")),
    title="MM-SafetyBench++",
    address="https://huggingface.co/datasets/EchoSafe-MLLM/MM-SafetyBench-plus-plus",
)
