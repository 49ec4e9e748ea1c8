"""Inspect logs (`.eval`, `.json`) as answers, read by Inspect's own reader."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmrm.errors import UserError
from cmrm.untrusted.printable import first_line, show
from cmrm.untrusted.regular_file import open_regular
from tasks.imported.given_answer import GivenAnswer
from tasks.imported.rows import MOST_ERROR, AnswerColumns, make_answer

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample

# A JSON log is in memory as a whole; of an `.eval` log one sample is, and a small archive may unpack to a huge one.
MOST_JSON_BYTES = 2**30
MOST_MEMBER_BYTES = 2**28
# Inspect's names of why a model stopped, in the store's words.
FINISHED: Mapping[str, str] = {"max_tokens": "length", "model_length": "length"}
# Fields of a sample that are large and not read.
# The names of cmrm's own tasks in Inspect begin with it; the metadata of a finished run's log has the run's id.
OWN_TASKS = "cmrm/"
RUN_FIELD = "cmrm_run"
UNREAD = {"store", "events", "messages", "attachments"}


def describe_log(path: Path, *, where: str) -> dict[str, str]:
    """Describe the model, the task, the evaluation's id, its time and status, and the versions of a log."""
    log = _read_header(path, where)
    packages = ", ".join(f"{name} {one}" for name, one in sorted(log.eval.packages.items()))
    found = {
        "model": log.eval.model,
        "task": log.eval.task,
        "eval_id": log.eval.eval_id,
        "created": log.eval.created,
        "status": log.status,
        "packages": packages,
    }
    return {name: show(str(value), most=200) for name, value in found.items() if value}


def name_reader() -> str:
    """Name the package that reads logs, with its version."""
    try:
        return f"inspect_ai {version('inspect_ai')}"
    except PackageNotFoundError:
        return "inspect_ai"


def read_log(path: Path, columns: AnswerColumns, *, epoch: int | None, where: str) -> Iterator[GivenAnswer]:
    """Stream the answers of a log: the completions of one epoch.

    A column of the spec may be a path into a sample's `metadata`. Raises `UserError` for a log of several epochs where
    none is chosen, for one that Inspect cannot read, and without Inspect.
    """
    header = _read_header(path, where)
    epochs = header.eval.config.epochs or 1
    if epoch is None and epochs > 1:
        raise UserError(
            f"{where}: the log has {epochs} epochs, so {epochs} answers to each question; write `epoch: 1`, or another."
        )
    if epoch is not None and epoch > epochs:
        raise UserError(f"{where}: the log has no epoch {epoch}, it has {epochs}; correct `epoch`.")
    own = _list_own_fields(header)
    for sample in _read_samples(path, where):
        if sample.epoch == (epoch or 1):
            fields = _to_fields(sample) | {name: (sample.metadata or {}).get(name) for name in own}
            yield make_answer(columns, fields, place=f"sample {show(str(sample.id), most=60)}", where=where)


def _list_own_fields(header: EvalLog) -> tuple[str, ...]:
    """List the fields that samples' metadata gives: a log that cmrm wrote says how each sample was asked."""
    if RUN_FIELD in (header.eval.metadata or {}):
        return ("condition", "dataset")
    own = (header.eval.task_registry_name or header.eval.task).startswith(OWN_TASKS)
    return ("condition",) if own else ()


def _to_fields(sample: EvalSample) -> dict[str, Any]:
    # A sample that errored has an output without a choice.
    output = sample.output if sample.output.choices else None
    usage = None if output is None else output.usage
    error = sample.error.message if sample.error is not None else None if output is None else output.error
    if output is None and error is None:
        error = "the sample has no output"
    stopped = None if output is None else output.stop_reason
    return {
        "id": sample.id,
        "answer": None if output is None else output.completion,
        "error": None if error is None else show(error, most=MOST_ERROR),
        "tokens": None if usage is None else usage.output_tokens,
        "prompt_tokens": None if usage is None else usage.input_tokens,
        "finish_reason": None if stopped is None else FINISHED.get(stopped, stopped),
        "metadata": sample.metadata,
    }


def _read_header(path: Path, where: str) -> EvalLog:
    try:
        from inspect_ai.log import read_eval_log
    except ImportError:
        raise UserError(
            f"{where}: it is an Inspect log, and inspect_ai is not installed; install it: pip install 'cmrm[inspect]'."
        ) from None
    _refuse_too_large(path, where)
    try:
        return read_eval_log(path, header_only=True)
    except Exception as error:  # noqa: BLE001 - of what a damaged file makes its reader raise
        raise _unreadable(where, error) from None


def _read_samples(path: Path, where: str) -> Iterator[EvalSample]:
    from inspect_ai.log import read_eval_log, read_eval_log_samples

    try:
        if path.suffix.lower() == ".json":
            # One by one, each would parse the whole file.
            yield from read_eval_log(path).samples or ()
        else:
            yield from read_eval_log_samples(path, all_samples_required=False, exclude_fields=UNREAD)
    except Exception as error:  # noqa: BLE001 - as above
        raise _unreadable(where, error) from None


def _refuse_too_large(path: Path, where: str) -> None:
    """Raise `UserError` for a log whose parts would not fit into memory, and for what is no regular file."""
    try:
        with open_regular(path) as file:
            if path.suffix.lower() == ".json":
                size, most = file.seek(0, 2), MOST_JSON_BYTES
            else:
                with zipfile.ZipFile(file) as archive:
                    size = max((one.file_size for one in archive.infolist()), default=0)
                most = MOST_MEMBER_BYTES
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise _unreadable(where, error) from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if size > most:
        raise UserError(
            f"{where}: the log, or a sample of it, has {size:,} bytes, and at most {most:,} are read; give its answers "
            "as JSONL."
        )


def _unreadable(where: str, error: Exception) -> UserError:
    reason = show(first_line(error), most=200)
    return UserError(
        f"{where}: {name_reader()} cannot read it as a log ({reason}); check the file, or give rows as JSONL, CSV or "
        "Parquet."
    )
