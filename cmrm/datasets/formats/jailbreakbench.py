"""JailbreakBench's JBB-Behaviors: 100 harmful goals, and 100 harmless ones on the same topics; text alone.

Get `data/harmful-behaviors.csv` and `data/benign-behaviors.csv` from Hugging Face `JailbreakBench/JBB-Behaviors`;
licence MIT.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cmrm.datasets.csv_rows import read_table
from cmrm.datasets.fields import get_id, get_text, get_text_or_none
from cmrm.datasets.file_names import read_file_name
from cmrm.datasets.format import Format
from cmrm.datasets.rows import Record, make_samples
from cmrm.prompts.sample import Rejected, Sample

COLUMNS = frozenset(("Goal", "Behavior"))
# Both files have the same columns, and none that says which of the two it is.
HARMFUL = {"harmful": True, "benign": False}


def read_jailbreakbench(path: Path, *, dataset: str) -> Iterator[Sample | Rejected]:
    """Read a CSV `Index,Goal,Target,Behavior,Category,Source`; the file's name says whether its goals are harmful.

    id = `Behavior`, which names a goal in either file; the category is the file's. A harmful goal and the harmless one
    under the same name are on one side of the split. `Target` is how a compliant answer begins, and no reference.
    """
    harmful = read_file_name(path, HARMFUL, dataset=dataset)

    def make(record: Record) -> Sample:
        behavior = get_id(record.fields, "Behavior")
        return Sample(
            id=behavior,
            dataset=dataset,
            question=get_text(record.fields, "Goal"),
            harmful=harmful,
            category=get_text_or_none(record.fields, "Category"),
            group=behavior,
            line=record.line,
        )

    records = read_table(path, dataset=dataset, columns=COLUMNS)
    return make_samples(records, make, dataset=dataset, id_field="Behavior")


FORMAT = Format(
    read=read_jailbreakbench,
    harmful=None,
    title="JailbreakBench",
    address="https://huggingface.co/datasets/JailbreakBench/JBB-Behaviors",
)
