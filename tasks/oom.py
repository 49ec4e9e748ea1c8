"""OOM: what happens where memory runs out, in every stage. Batches are halved, and what is finished is kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from cmrm.errors import UserError

if TYPE_CHECKING:
    from tasks.stage import Job

log = logging.getLogger("cmrm.tasks")

# What helps where a single sample does not fit, by stage.
REMEDY = "a smaller model.dtype (bfloat16, float16) or another model.device"
ANSWERING = f"a smaller generation.max_new_tokens, {REMEDY}"
REMEDIES = {
    "generate": ANSWERING,
    "judge": "the judge a smaller dtype (bfloat16, float16) or another device, where it has these options",
    "look": "clip another device, or smaller images",
    "overhead": ANSWERING,
}


def run_in_smaller_batches(
    job: Job, size: int, attempt: Callable[[int], None], list_waiting: Callable[[], Sequence[str]]
) -> int:
    """Run `attempt(size)`, again with half the size after each OOM; return the size that sufficed.

    `list_waiting` names what is not finished yet, in the order in which batches are cut from it. Raises `UserError`
    when a batch of one does not fit: what fits depends on the machine and not on the row, which is not quarantined.
    """
    while not fits_into_memory(partial(attempt, size)):
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


def fits_into_memory(work: Callable[[], None]) -> bool:
    """Run `work`; return False if it ran out of memory, after freeing what it had allocated."""
    try:
        work()
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
    else:
        return True
    from cmrm.memory import release_memory

    # Not before here: the error and its traceback, which hold the attempt's tensors, are gone only now.
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
    # torch is imported where something has failed: judges that hold no model do without it.
    from cmrm.memory import is_out_of_memory

    return is_out_of_memory(error)
