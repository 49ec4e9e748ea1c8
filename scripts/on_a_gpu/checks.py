"""A check, what it found, and its isolation: whatever one raises is recorded, and the others go on."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from on_a_gpu.machine import finish, free, read_peak, reset_peak
from on_a_gpu.subject import Subject

Status = Literal["passed", "failed", "not possible here"]
ROOT = Path(__file__).resolve().parents[2]


class NotPossibleError(Exception):
    """A check cannot be made on this machine; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a check: the first row of `cells` is its head, columns in `right` are numbers."""

    title: str
    cells: Sequence[Sequence[str]]
    right: Sequence[int] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a check found: a line, its figures, tables, and what is wrong, if anything."""

    line: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    wrong: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Check:
    """A named check; `run` raises `NotPossibleError` where this machine does not allow it."""

    name: str
    about: str
    run: Callable[[Subject], Evidence]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a check of a model ended: `line` says what was found or why not, `where` the code that raised.

    `peak_bytes` is the most memory that torch held on the GPU during the check; without a GPU, the most that the
    process held until then.
    """

    check: str
    shape: str
    status: Status
    line: str
    where: str = ""
    seconds: float = 0.0
    peak_bytes: int | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    tables: Sequence[Table] = ()


def run_check(check: Check, subject: Subject) -> Outcome:
    """Run a check; whatever it raises is its outcome. What it held of the device's memory is freed."""
    reset_peak(subject.device)
    started = time.monotonic()
    ended = _try(check, subject)
    outcome = Outcome(
        check=check.name,
        shape=subject.name,
        seconds=time.monotonic() - started,
        peak_bytes=read_peak(subject.device),
        **ended,
    )
    free(subject.device)
    return outcome


def refuse(check: Check, shape: str, reason: str) -> Outcome:
    """The outcome of a check that was not begun."""
    return Outcome(check=check.name, shape=shape, status="not possible here", line=reason)


def _try(check: Check, subject: Subject) -> dict[str, Any]:
    try:
        found = check.run(subject)
        finish(subject.device)
    except NotPossibleError as error:
        return {"status": "not possible here", "line": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever a model or a kernel raises is the finding
        return explain(error)
    line = "; ".join([*found.wrong, found.line])
    status: Status = "failed" if found.wrong else "passed"
    return {"status": status, "line": line, "figures": found.figures, "tables": found.tables}


def explain(error: BaseException) -> dict[str, Any]:
    """What failed, and where."""
    reason = (str(error).strip().splitlines() or ["no reason given"])[0]
    return {"status": "failed", "line": f"{type(error).__name__}: {reason}", "where": find_place(error)}


def find_place(error: BaseException) -> str:
    """The innermost line of this project's code that an error passed: `cmrm/models/vlm.py:181 in render`."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(ROOT)] or frames
    if not own:
        return ""
    last = own[-1]
    path = Path(last.filename)
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return f"{shown}:{last.lineno} in {last.name}"
