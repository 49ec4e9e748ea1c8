"""Work that may not fit into memory: it is tried, and tried again with fewer samples at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from cmrm.errors import UserError
from tasks.samples import StoredSample
from tasks.stage import Job

log = logging.getLogger("cmrm.tasks")

# What helps where a single sample does not fit, by stage.
REMEDY = "a smaller model.dtype (bfloat16, float16) or another model.device"
REMEDIES = {
    "generate": f"a smaller generation.max_new_tokens, {REMEDY}",
    "judge": "the judge a smaller dtype (bfloat16, float16) or another device, where it has these options",
}


def fits(work: Callable[[], None]) -> bool:
    """Do some work; False where memory did not suffice, once what the attempt held is given back."""
    try:
        work()
    except (RuntimeError, MemoryError) as error:
        # torch is imported where something has failed: judges that hold no model do without it.
        from cmrm.memory import is_out_of_memory, release_memory

        if not is_out_of_memory(error):
            raise
    else:
        return True
    # Not before here: the error and its traceback, which hold the attempt's tensors, are gone only now.
    release_memory()
    return False


def halve(job: Job, batch: Sequence[StoredSample]) -> int:
    """The batch size to go on with after this batch did not fit; `UserError` if it was a single sample."""
    if len(batch) == 1:
        sample = batch[0].sample
        # What fits depends on the machine and not on the row, so the row is not set aside.
        raise UserError(
            f"{job.stage} {job.label}: the model ran out of memory on a single sample, {sample.id!r} of "
            f"{sample.dataset}. Give {REMEDIES.get(job.stage, REMEDY)}. What is finished is kept."
        )
    smaller = len(batch) // 2
    log.warning(
        "%s %s: out of memory on a batch of %d; going on with batches of %d",
        job.stage,
        job.label,
        len(batch),
        smaller,
    )
    return smaller
