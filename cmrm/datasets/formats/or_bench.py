"""OR-Bench: 80,000 harmless prompts that seem harmful, the 1,319 hardest of them, and 655 harmful ones; text alone.

Get `or-bench-80k.csv`, `or-bench-hard-1k.csv` or `or-bench-toxic.csv` from Hugging Face `bench-llm/or-bench`;
licence CC BY 4.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cmrm.datasets.file_names import read_file_name
from cmrm.datasets.format import Format
from cmrm.datasets.prompt_table import read_prompt_table
from cmrm.prompts.sample import Rejected, Sample

COLUMNS = frozenset(("prompt", "category"))
# The three files have the same columns, and none that says which it is.
HARMFUL = {"80k": False, "hard-1k": False, "toxic": True}


def read_or_bench(path: Path, *, dataset: str) -> Iterator[Sample | Rejected]:
    """Read a CSV `prompt,category`; the file's name says whether its prompts are harmful.

    id = the prompt's digest. The category is the harm that a harmless prompt seems to ask for.
    """
    harmful = read_file_name(path, HARMFUL, dataset=dataset)
    return read_prompt_table(path, dataset=dataset, question="prompt", columns=COLUMNS, harmful=harmful)


FORMAT = Format(
    read=read_or_bench,
    harmful=None,
    title="OR-Bench",
    address="https://huggingface.co/datasets/bench-llm/or-bench",
)
