"""OOM policy of every stage: retry with half the batch size, and keep finished rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from cmrm.errors import UserError
from tasks.core.stage_name import StageName

if TYPE_CHECKING:
    from tasks.core.stage import Job

log = logging.getLogger("cmrm.tasks")

# The remedy for an OOM on a single sample, by stage.
REMEDY = "a smaller model.dtype (bfloat16, float16) or another model.device"
ANSWERING = f"a smaller generation.max_new_tokens, {REMEDY}"
JUDGING = "the judge a smaller dtype (bfloat16, float16) or another device, where it has these options"
REMEDIES: Mapping[StageName, str] = {
    StageName.GENERATE: ANSWERING,
    StageName.JUDGE: JUDGING,
    StageName.JUDGE_TEXTS: JUDGING,
    StageName.EMBED_IMAGES: "clip another device, or smaller images",
    StageName.OVERHEAD: ANSWERING,
}


def run_in_smaller_batches(
    job: Job, size: int, attempt: Callable[[int], None], list_waiting: Callable[[], Sequence[str]]
) -> int:
    """Run `attempt(size)`, retrying with half the size after each OOM; return the size that succeeded.

    `list_waiting` names the unfinished samples, in the order in which batches are cut from them. Raises `UserError` for
    an OOM on a batch of one: memory depends on the machine and not on the row, so the row is not quarantined.
    """
    while not run_unless_oom(partial(attempt, size)):
        waiting = list_waiting()
        failed = min(size, len(waiting))
        if failed <= 1:
            name = f", {waiting[0]!r}" if waiting else ""
            raise UserError(
                f"{job.stage} {job.label}: out of memory on a single sample{name}. "
                f"Give {REMEDIES.get(job.stage, REMEDY)}. What is finished is kept."
            )
        size = failed // 2
        log.warning(
            "%s %s: out of memory on a batch of %d; going on with batches of %d",
            job.stage,
            job.label,
            failed,
            size,
        )
    return size


def run_in_fixed_batches(
    job: Job,
    size: int,
    attempt: Callable[[int], None],
    list_waiting: Callable[[], Sequence[str]],  # noqa: ARG001 - as in `run_in_smaller_batches`
) -> int:
    """Run `attempt(size)` and return the size; an OOM is a `UserError`, since the batch size is fixed."""
    if not run_unless_oom(partial(attempt, size)):
        raise UserError(
            f"{job.stage} {job.label}: out of memory on a batch of {size}, and reproducible: true allows no smaller "
            f"one. Give a smaller batch_size, or {REMEDIES.get(job.stage, REMEDY)}. What is finished is kept."
        )
    return size


def run_unless_oom(work: Callable[[], None]) -> bool:
    """Run `work`; return False if it ran out of memory, after freeing what it had allocated."""
    try:
        work()
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
    else:
        return True
    from cmrm.models.oom import release_memory

    # Only here: the error's traceback, which referenced the attempt's tensors, is gone now.
    release_memory()
    return False


@contextmanager
def explained_oom(job: Job) -> Iterator[None]:
    """Turn an OOM outside any batch into a `UserError`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise UserError(
            f"{job.stage} {job.label}: out of memory before or after its batches. Give "
            f"{REMEDIES.get(job.stage, REMEDY)}, a smaller shard_size, or free memory. What is finished is kept."
        ) from error


def _is_out_of_memory(error: BaseException) -> bool:
    # Imports torch only after a failure: judges without a local model do not need it.
    from cmrm.models.oom import is_out_of_memory

    return is_out_of_memory(error)
