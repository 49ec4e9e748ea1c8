"""The forbidden question set: 13 policies × 30 questions, text alone.

Get `forbidden_question_set.csv` from Hugging Face `TrustAIRLab/forbidden_question_set` or GitHub
`verazuo/jailbreak_llms` (folder `data`); its licence stands there. The paper keeps 11 of the policies, which ones is
not known: `categories` chooses.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cmrm.datasets.csv_rows import read_table
from cmrm.datasets.fields import RowError, get_id, get_text, get_text_or_none
from cmrm.datasets.format import Format
from cmrm.datasets.rows import Record, make_samples
from cmrm.prompts.sample import Rejected, Sample

COLUMNS = frozenset(("content_policy_id", "content_policy_name", "q_id", "question"))


def read_forbidden_questions(path: Path, *, dataset: str) -> Iterator[Sample | Rejected]:
    """Read the CSV `content_policy_id,content_policy_name,q_id,question`; id = policy-question.

    The questions have no images; they are paired with some afterwards (`pairing`). Rows of the set's other file, with
    jailbreak prompts, are rejected: what a model is asked is then prompt and question together.
    """

    def make(record: Record) -> Sample:
        if record.fields.get("prompt"):
            raise RowError("a jailbreak prompt beside the question; join the two and use the format jsonl")
        policy = get_id(record.fields, "content_policy_id")
        return Sample(
            id=f"{policy}-{get_id(record.fields, 'q_id')}",
            dataset=dataset,
            question=get_text(record.fields, "question"),
            harmful=True,
            category=get_text_or_none(record.fields, "content_policy_name"),
            line=record.line,
        )

    records = read_table(path, dataset=dataset, columns=COLUMNS)
    return make_samples(records, make, dataset=dataset)


FORMAT = Format(
    read=read_forbidden_questions,
    harmful=True,
    title="Forbidden question set",
    address="https://huggingface.co/datasets/TrustAIRLab/forbidden_question_set",
)
