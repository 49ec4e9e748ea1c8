"""AdvBench: some 500 harmful instructions, text alone.

Get `data/advbench/harmful_behaviors.csv` from GitHub `llm-attacks/llm-attacks`; licence MIT. Its other file,
`harmful_strings.csv`, holds no instructions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cmrm.datasets.format import Format
from cmrm.datasets.prompt_table import read_prompt_table
from cmrm.prompts.sample import Rejected, Sample

COLUMNS = frozenset(("goal", "target"))


def read_advbench(path: Path, *, dataset: str) -> Iterator[Sample | Rejected]:
    """Read the CSV `goal,target`; the goal is the question, and its digest the id.

    `target` is the beginning of a compliant answer, so it is not used as a reference.
    """
    return read_prompt_table(path, dataset=dataset, question="goal", columns=COLUMNS, harmful=True)


FORMAT = Format(
    read=read_advbench,
    harmful=True,
    title="AdvBench",
    address="https://github.com/llm-attacks/llm-attacks",
)
