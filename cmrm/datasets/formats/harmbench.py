"""HarmBench: 400 harmful behaviours in text, and 110 with an image each.

Get `data/behavior_datasets/harmbench_behaviors_text_all.csv` (or `_val`, `_test`) or
`harmbench_behaviors_multimodal_all.csv`, and the folder `data/multimodal_behavior_images`, from GitHub
`centerforaisafety/HarmBench`; licence MIT.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cmrm.datasets.csv_rows import read_table
from cmrm.datasets.fields import get_id, get_text, get_text_or_none, join_names
from cmrm.datasets.format import Format
from cmrm.datasets.rows import Record, make_samples
from cmrm.prompts.sample import Rejected, Sample

COLUMNS = frozenset(("Behavior", "BehaviorID"))
# Between a contextual behaviour's context and the behaviour, as in upstream's direct requests.
SEPARATOR = "\n\n---\n\n"


def read_harmbench(path: Path, *, dataset: str) -> Iterator[Sample | Rejected]:
    """Read the CSV `Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID` or the multimodal one.

    The latter has `ImageFileName`, `ImageDescription` and `RedactedImageDescription` in place of `ContextString`.
    id = `BehaviorID`; the category is functional/semantic (`standard/illegal`). A context stands before its behaviour
    in the question, and the behaviour, which occurs with several contexts, decides the side of the split. The caption
    is the image's description; the redacted one, which upstream's classifier is shown, is what judges may see of it.
    """

    def make(record: Record) -> Sample:
        fields = record.fields
        behavior = get_text(fields, "Behavior")
        context = get_text_or_none(fields, "ContextString")
        with_context = context is not None and behavior.strip() != ""
        return Sample(
            id=get_id(fields, "BehaviorID"),
            dataset=dataset,
            question=f"{context}{SEPARATOR}{behavior}" if with_context else behavior,
            harmful=True,
            image=get_text_or_none(fields, "ImageFileName"),
            caption=get_text_or_none(fields, "ImageDescription"),
            category=join_names(
                get_text_or_none(fields, "FunctionalCategory"), get_text_or_none(fields, "SemanticCategory")
            ),
            context=get_text_or_none(fields, "RedactedImageDescription"),
            group=behavior if with_context else None,
            line=record.line,
        )

    records = read_table(path, dataset=dataset, columns=COLUMNS)
    return make_samples(records, make, dataset=dataset, id_field="BehaviorID")


FORMAT = Format(
    read=read_harmbench,
    harmful=True,
    title="HarmBench",
    address="https://github.com/centerforaisafety/HarmBench",
)
