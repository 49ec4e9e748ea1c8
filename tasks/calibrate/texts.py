"""What stands on a sheet beside an answer's id: question, answer and the sample's own image. Nothing tells the arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cmrm.prompts.media import MediumKind
from cmrm.prompts.reasoning import find_final
from storage.shards.rows import iterate_all, need_manifest
from storage.store import Store
from tasks.calibrate.frame import Frame
from tasks.calibrate.sheet import Sheet
from tasks.core.stage_name import ANSWERS, StageName
from tasks.data.media_words import find_picture, note_media
from tasks.report.outcomes import Arm
from tasks.shards.answers import find_judged_marks

# Longer texts are cut: a spreadsheet's cell holds 32,767 characters, and nobody reads as much to the end.
MOST_LETTERS = 8_000
_ARM = ("model", "condition", "intervention", "alpha")


@dataclass(frozen=True, kw_only=True)
class SheetText:
    """Question and answer, each cut to 8,000 characters, how long the answer is, and the image's name, if any.

    Of a model that reasons, the answer is the final one, without its trace: what its judges were given.
    Of several images, videos and sounds the first picture is named, and the question begins with what they are.
    The image is shown whether or not the model was: that, too, would tell the arm.
    """

    dataset: str
    question: str
    answer: str
    letters: int
    image: str | None
    kind: MediumKind = "image"


def read_texts(store: Store, frame: Frame, sheet: Sheet) -> dict[str, SheetText]:
    """Read the texts of a sheet's answers by their ids; raises `StoreError` if a file is missing."""
    used: Mapping[str, list[str]] = frame.report.content["used"]
    made = {
        stage: [need_manifest(store, stage, key) for key in used.get(stage, ())]
        for stage in (StageName.INGEST, *ANSWERS, StageName.JUDGE)
    }
    ids = {(row.answer.arm, *row.answer.question): row.id for row in sheet.rows}
    questions = {row.answer.question for row in sheet.rows}
    samples = {
        (row["dataset"], row["sample_id"]): row
        for row in iterate_all(
            store, made[StageName.INGEST], "samples", ["dataset", "sample_id", "question", "image", "media"]
        )
        if (row["dataset"], row["sample_id"]) in questions
    }
    texts = {}
    columns = (*_ARM, "dataset", "sample_id", "answer")
    marks = find_judged_marks(made[StageName.JUDGE])
    for manifest in (one for stage in ANSWERS for one in made[stage]):
        for row in iterate_all(store, [manifest], "responses", columns):
            question = row["dataset"], row["sample_id"]
            if (name := ids.get((Arm(*(row[part] for part in _ARM)), *question))) is None:
                continue
            sample = samples[question]
            picture = find_picture(sample["media"])
            answer = find_final(row["answer"], marks.get(manifest.key)) or ""
            texts[name] = SheetText(
                dataset=row["dataset"],
                question=note_media(sample["question"][:MOST_LETTERS], sample["media"]),
                answer=answer[:MOST_LETTERS],
                letters=len(answer),
                image=sample["image"] or (None if picture is None else picture["name"]),
                kind="image" if picture is None else picture["kind"],
            )
    return texts
