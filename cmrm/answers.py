"""What a model answers: text, length, why it ended, and what an intervention did meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cmrm.faults import Fault
from cmrm.steering import SteeringProof

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer: its text without special tokens, the number of generated tokens, and why it ended.

    Where `fault` says that the model's numbers stopped being finite, there is no answer and the text is empty.
    """

    text: str
    tokens: int
    finish_reason: FinishReason
    fault: Fault | None = None


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers of a batch in the order of its prompts; the proof of steering where there was an intervention."""

    answers: tuple[Answer, ...]
    proof: SteeringProof | None
