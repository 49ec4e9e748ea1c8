"""Plan of the steps of a defence with several generations: each asks what those before have answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cmrm.prompts.reasoning import ReasoningMarks
from tasks.generate.job import GenerateJob
from tasks.shards.answers import keep_marks
from tasks.shards.samples import Slice
from tasks.states.steering import (
    ANSWER,
    PLAIN,
    DefenceUse,
    StepUse,
    list_steps,
    needs_plain,
    read_answers,
)


class Generated(NamedTuple):
    """Names the responses of one generation: a defence at a strength, its step, and the shard; '' for the baseline."""

    name: str
    alpha: float | None
    step: str
    slice: Slice

    @classmethod
    def of(cls, job: GenerateJob) -> Generated:
        """The name of a job's responses."""
        use = job.steering
        if isinstance(use, StepUse):
            return cls(use.of.name, use.of.alpha, use.step, job.slice)
        return cls("" if use is None else use.name, None if use is None else use.alpha, PLAIN, job.slice)


def make_step(
    use: DefenceUse,
    shard_view: Slice,
    done: Mapping[Generated, str],
    number: int,
    captioned: Mapping[str, str],
    *,
    reasoning: ReasoningMarks | None,
    store: str,
) -> StepUse:
    """Make the step of this number on a shard, from the keys of the answers before.

    `captioned` holds by step the keys of the run's captions that the step would repeat. `reasoning` are the model's
    marks, which the step has if any answer before, in the store at `store`, has a trace: others keep their keys.
    """
    steps = list_steps(use)
    plain = {PLAIN: done[Generated("", None, PLAIN, shard_view)]} if needs_plain(use) else {}
    earlier = plain | {
        step: captioned.get(step) or done[Generated(use.name, use.alpha, step, shard_view)]
        for step in steps[:number]
    }
    generated = (key for step, key in earlier.items() if step not in captioned)
    texts = (answer.text for key in generated for answer in read_answers(store, key).values())
    return StepUse(
        name=use.name if steps[number] == ANSWER else f"{use.name}: {steps[number]}",
        of=use,
        step=steps[number],
        earlier=tuple(earlier.items()),
        captioned=tuple(step for step in captioned if step in earlier),
        reasoning=keep_marks(reasoning, texts),
    )
