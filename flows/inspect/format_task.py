"""The task of a data set format: its samples under one condition, scored by judges that fit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset
from inspect_ai.model import GenerateConfig

from cmrm.datasets import find_format
from cmrm.errors import UserError
from cmrm.models.families import IMAGE_SIZE
from cmrm.prompts.conditions import CONDITIONS, CONTROLS, Condition, make_meaningless
from cmrm.prompts.meaningless_images import MeaninglessImage
from cmrm.prompts.sample import Sample
from cmrm.untrusted.printable import show_value
from flows.inspect.dataset import (
    METADATA,
    check_section,
    describe_rejected,
    read_options,
    read_rows,
    show_samples,
)
from flows.inspect.scorers import SCORERS
from flows.inspect.scores import rates
from flows.spec.judge_fields import read_judge_list
from flows.spec.sections import AnchorsSpec, ImagesSpec
from tasks.judge.loaded import JudgeUse

# A control is text that the model's own template puts in place of an image, which no message can ask for.
SHOWN: Sequence[Condition] = tuple(one for one in CONDITIONS if one not in CONTROLS)
# Raised when a task asks or scores otherwise than before.
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of a task, unchecked: `anchors` and `meaningless` as a spec's sections, `options` the format's own.

    `condition` and `judge` are None for what fits the data set.
    """

    form: str
    path: str | None
    images: str | None
    condition: str | None
    judge: Any
    by: str
    anchors: Mapping[str, Any]
    meaningless: Mapping[str, Any]
    options: Mapping[str, Any]


def make_task(request: Request) -> Task:
    """Make the task; raises `UserError` for an argument that a spec would refuse, and for data without a sample."""
    form = request.form
    if request.path is None:
        raise UserError(f"format {form!r} reads a file or a folder; give it by -T path=….")
    asked = _find_condition(request.condition)
    if request.by and request.by not in METADATA:
        raise UserError(f"by is {show_value(request.by)}; give {', '.join(METADATA)}.")
    dataset = read_options(form, {"path": request.path, "images": request.images, **request.options})
    meaningless = _make_meaningless(check_section(ImagesSpec, request.meaningless, where="image"))
    anchors = check_section(AnchorsSpec, request.anchors, where="anchors")
    rows = read_rows(form, dataset, anchors=anchors, condition=asked)
    condition = asked or ("image" if any(sample.image for sample in rows.samples) else "query")
    shown = show_samples(rows, condition, meaningless=meaningless)
    judges = _choose_judges(form, rows.samples) if request.judge is None else request.judge
    uses = read_judge_list(judges, folder=Path.cwd(), where="judge")
    return Task(
        dataset=MemoryDataset(list(shown.samples), name=form, location=str(dataset.path)),
        scorer=[SCORERS[use.kind](**use.options) for use in uses],
        metrics=[rates(), rates(by=request.by)] if request.by else None,
        # How long an answer may be is left to the model: one of a run has that run's limit.
        config=GenerateConfig(temperature=0.0),
        version=VERSION,
        metadata={
            "cmrm": {
                "format": form,
                "condition": condition,
                "samples": len(shown.samples),
                "lacking": dict(shown.lacking),
                "anchors": rows.anchors,
                **describe_rejected(rows.rejected),
            }
        },
    )


def _make_meaningless(images: ImagesSpec) -> Mapping[Condition, MeaninglessImage]:
    red, green, blue = images.color
    return make_meaningless(size=images.size or IMAGE_SIZE, color=(red, green, blue), seed=images.seed)


def _find_condition(asked: str | None) -> Condition | None:
    if asked is None:
        return None
    found = next((one for one in SHOWN if one == asked), None)
    if found is None:
        raise UserError(f"condition is {show_value(asked)}; give {', '.join(SHOWN)}.")
    return found


def _choose_judges(form: str, samples: Sequence[Sample]) -> list[str]:
    """Choose the format's judges; one that needs a reference only where a harmless sample has one."""
    answerable = any(sample.reference and not sample.harmful for sample in samples)
    kinds = find_format(form).judges
    chosen = [kind for kind in kinds if answerable or "reference" not in JudgeUse(kind=kind, name=kind).reads]
    return chosen or list(kinds)
