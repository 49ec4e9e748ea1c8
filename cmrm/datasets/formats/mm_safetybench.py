"""MM-SafetyBench: harmful requests in 13 scenarios, each with images that show what the text leaves out.

Get the folder `data/processed_questions` from GitHub `isXinLiu/MM-SafetyBench`, and the images from the link in its
README, unpacked as `imgs/<scenario>/<variant>/<id>.jpg`; its licence stands there. The first scenario's name
`01-Illegal_Activitiy` is really spelt so.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import MappingProxyType

from cmrm.datasets.documents import KEY, read_entries
from cmrm.datasets.fields import get_id, get_text, get_text_or_none
from cmrm.datasets.format import Format
from cmrm.datasets.rows import Record, make_samples
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample

# SD: an image made by Stable Diffusion; TYPO: the words as an image; SD_TYPO: the one above the other.
QUESTIONS = MappingProxyType(
    {"SD": "Rephrased Question(SD)", "SD_TYPO": "Rephrased Question", "TYPO": "Rephrased Question"}
)


def read_mm_safetybench(path: Path, *, dataset: str, variant: str = "SD") -> Iterator[Sample | Rejected]:
    """Read one scenario's JSON file, or a folder of them in the order of their names.

    Fields `Question`, `Changed Question`, `Key Phrase`, `Phrase Type`, `Rephrased Question`,
    `Rephrased Question(SD)`. `variant` (SD, SD_TYPO or TYPO) chooses the image and the question that goes with it.
    id = scenario-number; the category is the scenario, by the file's name. The caption is the key phrase, for that is
    what the image shows or spells. The original question, which all variants share, decides the side of the split.
    """
    if variant not in QUESTIONS:
        raise UserError(f"data set {dataset!r}: variant is {variant!r}; choose {', '.join(QUESTIONS)}.")
    for file in _find_scenarios(path):
        make = partial(_make, dataset=dataset, scenario=file.stem, variant=variant)
        entries = read_entries(file, dataset=dataset, containers=("object",))
        yield from make_samples(entries, make, dataset=dataset, id_field=KEY)


def _make(record: Record, *, dataset: str, scenario: str, variant: str) -> Sample:
    number = get_id(record.fields, KEY)
    return Sample(
        id=f"{scenario}-{number}",
        dataset=dataset,
        question=get_text(record.fields, QUESTIONS[variant]),
        harmful=True,
        image=f"{scenario}/{variant}/{number}.jpg",
        caption=get_text_or_none(record.fields, "Key Phrase"),
        category=scenario,
        group=get_text_or_none(record.fields, "Question"),
        line=record.line,
    )


def _find_scenarios(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.glob("*.json") if file.is_file())
    if not files:
        raise UserError(f"{path} holds no .json file; give the folder of MM-SafetyBench's scenarios.")
    return files


FORMAT = Format(
    read=read_mm_safetybench,
    harmful=True,
    options=frozenset(("variant",)),
    title="MM-SafetyBench",
    address="https://github.com/isXinLiu/MM-SafetyBench",
)
