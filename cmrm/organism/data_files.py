"""Paths of the organism's data sets, without importing the code that writes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class DataFiles:
    """Paths of the data sets, all under one folder; their pictures share `images`."""

    folder: Path

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def vlsafe(self) -> Path:
        return self.folder / "vlsafe" / "harmlessness_examine.jsonl"

    @property
    def forbidden_questions(self) -> Path:
        return self.folder / "forbidden" / "forbidden_question_set.csv"

    @property
    def coco_captions(self) -> Path:
        return self.folder / "forbidden" / "captions_train2017.json"

    @property
    def bench_questions(self) -> Path:
        return self.folder / "bench" / "qa90_questions.jsonl"

    @property
    def bench_answers(self) -> Path:
        return self.folder / "bench" / "qa90_gpt4_answer.jsonl"

    @property
    def bench_captions(self) -> Path:
        return self.folder / "bench" / "caps_boxes_coco2014_val_80.jsonl"

    @property
    def mm_safetybench(self) -> Path:
        """A folder with a file of questions for each scenario."""
        return self.folder / "mm_safetybench" / "processed_questions"

    @property
    def xstest(self) -> Path:
        return self.folder / "xstest" / "xstest_v2_prompts.csv"

    def list_entries(self) -> list[str]:
        """List the files and folders above, relative to `folder`, in order."""
        entries = (
            self.images,
            self.vlsafe,
            self.forbidden_questions,
            self.coco_captions,
            self.bench_questions,
            self.bench_answers,
            self.bench_captions,
            self.mm_safetybench,
            self.xstest,
        )
        return [entry.relative_to(self.folder).as_posix() for entry in entries]
