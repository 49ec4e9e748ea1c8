"""StrongREJECT: 313 forbidden prompts in six categories, or the small set of 60; text alone.

Get `strongreject_dataset/strongreject_dataset.csv` or `strongreject_small_dataset.csv` from GitHub
`alexandrasouly/strongreject`; its licence stands there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cmrm.datasets.format import Format
from cmrm.datasets.prompt_table import read_prompt_table
from cmrm.prompts.sample import Rejected, Sample

COLUMNS = frozenset(("category", "forbidden_prompt"))


def read_strongreject(path: Path, *, dataset: str) -> Iterator[Sample | Rejected]:
    """Read the CSV `category,source,forbidden_prompt`; the prompt is the question, and its digest the id.

    The id of a prompt is the same in both sets.
    """
    return read_prompt_table(
        path, dataset=dataset, question="forbidden_prompt", columns=COLUMNS, harmful=True
    )


FORMAT = Format(
    read=read_strongreject,
    harmful=True,
    title="StrongREJECT",
    address="https://github.com/alexandrasouly/strongreject",
)
