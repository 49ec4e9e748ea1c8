"""One Inspect log, written sample by sample: memory is that of a sample, and of what a list of samples shows.

Inspect's `write_eval_log` keeps all samples, with their images, until the last one is there, and its time grows with
the square of their number. The file is the same: a zip of JSON, which every release of Inspect reads.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from inspect_ai.log import EvalLog, EvalSample, condense_sample
from pydantic import BaseModel
from pydantic_core import to_json

START, SUMMARIES, HEADER = "_journal/start.json", "summaries.json", "header.json"


class LogFile:
    """A new `.eval` file; it is whole once `finish` was called. `created` dates its members."""

    def __init__(self, path: Path, *, created: datetime) -> None:
        self._zip = ZipFile(path, "x", ZIP_DEFLATED)
        self._created = created
        self._summaries: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def add(self, sample: EvalSample) -> None:
        """Write a sample; its images become attachments."""
        self._write(f"samples/{sample.id}_epoch_{sample.epoch}.json", _dump(condense_sample(sample)))
        self._summaries.append(_dump(sample.summary()))

    def finish(self, log: EvalLog) -> None:
        """Write the header, of a log without samples."""
        start = {"version": log.version, "eval": log.eval, "plan": log.plan}
        self._write(START, _dump(start))
        self._write(SUMMARIES, b"[" + b",".join(self._summaries) + b"]")
        self._write(HEADER, _dump(log))

    def _write(self, name: str, content: bytes) -> None:
        member = ZipInfo(name, self._created.timetuple()[:6])
        member.compress_type = ZIP_DEFLATED
        self._zip.writestr(member, content)


def _dump(value: BaseModel | dict[str, Any]) -> bytes:
    return to_json(value, exclude_none=True)
