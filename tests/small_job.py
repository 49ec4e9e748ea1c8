"""The smallest job that there can be, for tests of what all jobs go through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tasks.core.stage import Job


@dataclass(frozen=True, kw_only=True)
class AnswerJob(Job):
    """A job of the smallest kind."""

    @property
    def stage(self) -> str:
        return "generate"

    def content(self) -> dict[str, Any]:
        return {}
