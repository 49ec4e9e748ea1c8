"""Jobs as JSON, for workers that are given them as parameters of a flow run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter

from cmrm.errors import UserError
from tasks.embed import EmbedJob, embed_anchors
from tasks.generate import generate_answers
from tasks.generate_job import GenerateJob
from tasks.joined import JoinedJob
from tasks.judge import JudgeJob, judge_on_devices
from tasks.look import EmbedImagesJob, look_at_images
from tasks.overhead import OverheadJob, measure_overhead
from tasks.stage import Job, Stage

# The stages that need a device, by name, with the type of their jobs.
TRAVELLING: Mapping[str, tuple[Stage[Any], Any]] = MappingProxyType(
    {
        "look": (look_at_images, EmbedImagesJob),
        "embed": (embed_anchors, EmbedJob),
        "generate": (generate_answers, GenerateJob | JoinedJob),
        "overhead": (measure_overhead, OverheadJob),
        "judge": (judge_on_devices, JudgeJob),
    }
)


def pack_jobs(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Write jobs of one stage as JSON types; `unpack_jobs` makes the same jobs of them, with the same keys."""
    return [_adapter(type(job)).dump_python(job, mode="json") for job in jobs]


def unpack_jobs(stage: str, parcels: Sequence[Mapping[str, Any]]) -> tuple[Stage[Any], list[Job]]:
    """Read what `pack_jobs` wrote; raises `UserError` for a stage whose jobs do not travel."""
    if stage not in TRAVELLING:
        raise UserError(f"stage: {stage!r} is none of {', '.join(TRAVELLING)}, whose jobs go to workers.")
    found, kind = TRAVELLING[stage]
    return found, [_adapter(kind).validate_python(parcel) for parcel in parcels]


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
