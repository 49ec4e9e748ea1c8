"""Encode jobs as JSON, for workers that receive them as parameters of a flow run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter

from cmrm.errors import UserError
from tasks.core.stage import Job, Stage
from tasks.core.stage_name import StageName
from tasks.data.embed_images import EmbedImagesJob, extract_image_vectors
from tasks.generate.captions import CaptionJob, caption_images
from tasks.generate.job import GenerateJob
from tasks.generate.job_group import JobGroup
from tasks.generate.stage import generate_answers
from tasks.judge.stage import JudgeJob, judge_on_devices
from tasks.judge.texts import QuestionJob, TraceJob, judge_texts_on_devices
from tasks.overhead import OverheadJob, measure_overhead
from tasks.states.extract import EmbedJob, extract_states

# The stages whose jobs are sent to workers with a device, by name, with the types of their jobs.
TRAVELLING: Mapping[StageName, tuple[Stage[Any], Any]] = MappingProxyType(
    {
        StageName.EMBED_IMAGES: (extract_image_vectors, EmbedImagesJob),
        StageName.EXTRACT_STATES: (extract_states, EmbedJob),
        StageName.CAPTION: (caption_images, CaptionJob),
        StageName.GENERATE: (generate_answers, GenerateJob | JobGroup),
        StageName.OVERHEAD: (measure_overhead, OverheadJob),
        StageName.JUDGE: (judge_on_devices, JudgeJob),
        StageName.JUDGE_TEXTS: (judge_texts_on_devices, TraceJob | QuestionJob),
    }
)


def pack_jobs(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Encode jobs of one stage as JSON types; `unpack_jobs` decodes the same jobs, with the same keys."""
    return [_adapter(type(job)).dump_python(job, mode="json") for job in jobs]


def unpack_jobs(stage: str, encoded: Sequence[Mapping[str, Any]]) -> tuple[Stage[Any], list[Job]]:
    """Decode what `pack_jobs` wrote; raises `UserError` for a stage whose jobs are not sent to workers."""
    if stage not in TRAVELLING:
        raise UserError(f"stage: {stage!r} is none of {', '.join(TRAVELLING)}, whose jobs go to workers.")
    found, kind = TRAVELLING[StageName(stage)]
    return found, [_adapter(kind).validate_python(one) for one in encoded]


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
