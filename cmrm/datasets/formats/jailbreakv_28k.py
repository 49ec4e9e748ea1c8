"""JailBreakV-28K: harmful requests in 16 policies, rewritten and each with an image; RedTeam-2K: the requests alone.

Get `JailBreakV_28K.csv`, `mini_JailBreakV_28K.csv` or `RedTeam_2K.csv` from the folder `JailBreakV_28K` of Hugging Face
`JailbreakV-28K/JailBreakV-28k`; licence MIT. A few hundred of the images are in the same folder; all of them come by
the form that its page links to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from cmrm.datasets.csv_rows import read_table
from cmrm.datasets.fields import content_id, get_id, get_text, get_text_or_none
from cmrm.datasets.format import Format
from cmrm.datasets.rows import Record, make_samples
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample

COLUMNS = frozenset(("policy",))
REWRITTEN, PLAIN = "jailbreak_query", "question"


def read_jailbreakv_28k(path: Path, *, dataset: str) -> Iterator[Sample | Rejected]:
    """Read a CSV of `id`, `jailbreak_query`, `redteam_query`, `policy`, `image_path`, or of `id`, `question`, `policy`.

    id = the file's; the category is the policy. The image is `image_path` in the folder that holds
    `llm_transfer_attack`, `query_related` and `figstep`; a row without one, and all of RedTeam-2K, has none. The plain
    request, which all rewritten ones share, decides the side of the split: in RedTeam-2K that is the question.
    """

    def make(record: Record) -> Sample:
        fields = record.fields
        question = get_text(fields, REWRITTEN if REWRITTEN in fields else PLAIN)
        image = get_text_or_none(fields, "image_path")
        return Sample(
            id=get_id(fields, "id") if "id" in fields else content_id(question, image),
            dataset=dataset,
            question=question,
            harmful=True,
            image=image,
            category=get_text_or_none(fields, "policy"),
            group=get_text_or_none(fields, "redteam_query"),
            line=record.line,
        )

    records = read_table(path, dataset=dataset, columns=COLUMNS, check=partial(_check, path=path))
    return make_samples(records, make, dataset=dataset, id_field="id")


def _check(header: Sequence[str], *, path: Path) -> None:
    if REWRITTEN not in header and PLAIN not in header:
        raise UserError(
            f"{path} lacks a column {REWRITTEN} or {PLAIN}; give JailBreakV_28K.csv or RedTeam_2K.csv as published."
        )


FORMAT = Format(
    read=read_jailbreakv_28k,
    harmful=True,
    title="JailBreakV-28K",
    address="https://huggingface.co/datasets/JailbreakV-28K/JailBreakV-28k",
)
