"""Steps of a defence with several generations: samples that a step does not concern, before any is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from tasks.generate.answer_writer import AnswerWriter
from tasks.shards.prompts import quarantine_row
from tasks.shards.samples import StoredSample
from tasks.states.steering import StepUse


def settle_steps(arm: AnswerWriter, samples: Sequence[StoredSample]) -> None:
    """Take the answers that stand without a step, and quarantine the samples that lack an earlier answer."""
    from cmrm.decoding.requests import Answer, FinishReason

    use, store = arm.job.steering, arm.job.store
    if not isinstance(use, StepUse):
        return
    for stored in samples:
        sample = stored.sample.id
        if sample in arm.done:
            continue
        if (reason := use.explain_gap(sample, store)) is not None:
            arm.quarantine(quarantine_row(stored, stage=arm.job.stage, reason=reason))
        elif not use.is_needed(sample, store):
            stands = use.find_plain(sample, store)
            answer = Answer(
                text=stands.text,
                tokens=stands.tokens,
                finish_reason=cast("FinishReason", stands.finish_reason),
                # Nothing is read for it: reports count its tokens where they were generated.
                prompt_tokens=0,
            )
            arm.take(stored, answer, proof=None)
