"""XSTest: 250 harmless questions that sound harmful, and 200 harmful ones that contrast with them; no images.

Get `xstest_prompts.csv` (in older states `xstest_v2_prompts.csv`) from GitHub `paul-rottger/xstest`, formerly
`exaggerated-safety`, or the Hugging Face copy `Paul/XSTest`; licence CC BY 4.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cmrm.datasets.csv_rows import read_table
from cmrm.datasets.fields import RowError, content_id, get_id, get_text
from cmrm.datasets.format import Format
from cmrm.datasets.rows import Record, make_samples
from cmrm.prompts.sample import Rejected, Sample

COLUMNS = frozenset(("prompt", "type"))

# The newest name first; in the older file a prompt that one version lacks has no id of that version.
IDS = ("id", "id_v2", "id_v1")

HARMFUL_TYPES = "contrast_"
LABELS = {"safe": False, "unsafe": True}


def read_xstest(path: Path, *, dataset: str) -> Iterator[Sample | Rejected]:
    """Read the CSV `id_v1,id_v2,type,prompt,focus,note` or its successor `id,prompt,type,label,focus,note`.

    The category is the type. Harmful is what is labelled unsafe or, where there is no label, what is of a type that
    begins with `contrast_`. The id is the file's, of the newest version it has.
    """

    def make(record: Record) -> Sample:
        question = get_text(record.fields, "prompt")
        kind = get_id(record.fields, "type")
        return Sample(
            id=_get_own_id(record.fields) or content_id(question, None),
            dataset=dataset,
            question=question,
            harmful=_is_harmful(record.fields, kind),
            category=kind,
            line=record.line,
        )

    return make_samples(read_table(path, dataset=dataset, columns=COLUMNS), make, dataset=dataset)


def _get_own_id(fields: Mapping[str, Any]) -> str | None:
    return next((get_id(fields, name) for name in IDS if str(fields.get(name, "")).strip()), None)


def _is_harmful(fields: Mapping[str, Any], kind: str) -> bool:
    label = fields.get("label")
    if label is None:
        return kind.startswith(HARMFUL_TYPES)
    if label.strip().casefold() not in LABELS:
        raise RowError(f"field 'label' is {label[:80]!r}, neither safe nor unsafe")
    return LABELS[label.strip().casefold()]


FORMAT = Format(
    read=read_xstest,
    harmful=None,
    title="XSTest",
    address="https://github.com/paul-rottger/xstest",
)
