"""SORRY-Bench: 440 unsafe instructions in 44 categories, each also in 20 other styles and languages; text alone.

Get `question.jsonl` and `question_<style>.jsonl`, or the Parquet export, from Hugging Face
`sorry-bench/sorry-bench-202503` (or `-202406`); access on request, under a licence of its own that forbids passing the
data on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cmrm.datasets.fields import RowError, get_id, get_text, get_text_or_none, name_type
from cmrm.datasets.format import Format, OpenRows
from cmrm.datasets.parquet_rows import find_shards, read_export
from cmrm.datasets.rows import Record, make_samples, read_objects
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample

STYLE = "prompt_style"


def read_sorry_bench(
    path: Path, *, dataset: str, open_rows: OpenRows, variant: str | None = None
) -> Iterator[Sample | Rejected]:
    """Read JSONL, a Parquet file or a folder of Parquet shards: `question_id`, `category`, `turns`, `prompt_style`.

    The question is the one turn; several are rejected. id = style-number, for all styles of an instruction have its
    number, by which they are on one side of the split. `variant` keeps one style (`base`, …). Raises `UserError` when
    no row has it.
    """

    def make(record: Record) -> Sample:
        fields = record.fields
        number = get_id(fields, "question_id")
        style = get_text_or_none(fields, STYLE) if variant is None else get_text(fields, STYLE)
        return Sample(
            id=number if style is None else f"{style}-{number}",
            dataset=dataset,
            question=_get_turn(fields),
            harmful=True,
            category=None if fields.get("category") is None else get_id(fields, "category"),
            group=f"SORRY-Bench {number}",
            line=record.line,
        )

    in_parquet = path.is_dir() or path.suffix.lower() == ".parquet"
    records: Iterator[Record | Rejected] = (
        iter(read_export(find_shards(path), open_rows, columns=frozenset(("question_id", "turns"))))
        if in_parquet
        else read_objects(path, dataset=dataset)
    )
    kept = records if variant is None else _keep_style(records, variant, path)
    return make_samples(kept, make, dataset=dataset, id_field="question_id")


def _keep_style(records: Iterable[Record | Rejected], style: str, path: Path) -> Iterator[Record | Rejected]:
    """Skip the rows of other styles; one with an invalid style is kept, to be rejected."""
    others: dict[str, None] = {}
    any_kept = False
    for record in records:
        found = None if isinstance(record, Rejected) else record.fields.get(STYLE)
        if isinstance(found, str) and found != style:
            others[found] = None
            continue
        any_kept = any_kept or found == style
        yield record
    if others and not any_kept:
        raise UserError(f"{path} has no row of the style {style!r}; there are {', '.join(sorted(others))}.")


def _get_turn(fields: Mapping[str, Any]) -> str:
    turns = fields.get("turns")
    if not isinstance(turns, list):
        raise RowError(f"field 'turns' is {name_type(turns)}, not a list of texts")
    if len(turns) != 1:
        raise RowError(f"field 'turns' has {len(turns)} turns, and a sample is one")
    return get_text({"turns": turns[0]}, "turns")


FORMAT = Format(
    read=read_sorry_bench,
    harmful=True,
    options=frozenset(("variant",)),
    needs=frozenset(("open_rows",)),
    title="SORRY-Bench",
    address="https://huggingface.co/datasets/sorry-bench/sorry-bench-202503",
)
