"""Pair the organism's forbidden questions with pictures, for evaluation without a store."""

from __future__ import annotations

from dataclasses import replace

from cmrm.datasets import read_dataset
from cmrm.datasets.coco import read_captions
from cmrm.datasets.pairing import assign
from cmrm.organism.data_files import DataFiles
from cmrm.prompts.sample import Rejected, Sample


def read_forbidden(files: DataFiles) -> list[Sample | Rejected]:
    """Read the forbidden questions, each with its own picture: the next by name, since caption search needs a store."""
    rows = list(read_dataset("forbidden-questions", files.forbidden_questions, dataset="forbidden"))
    samples = [row for row in rows if isinstance(row, Sample)]
    pictures = ((caption.image, caption.text) for caption in read_captions(files.coco_captions))
    matches = iter(assign([], questions=len(samples), spare=pictures))
    return [
        replace(row, image=match.image, caption=match.caption)
        if isinstance(row, Sample) and (match := next(matches)) is not None
        else row
        for row in rows
    ]
