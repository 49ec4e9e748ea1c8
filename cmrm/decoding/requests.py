"""Decode requests (prompts with their arms), and the answers to them with the proof of steering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from transformers import BatchFeature

from cmrm.decoding.nonfinite import Fault
from cmrm.prefix.image_prompts import ImageRendering
from cmrm.prompts.conditions import Prompt
from cmrm.steering.intervention import Steering, needs_own_prefill
from cmrm.steering.proof import SteeringProof

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer: its text without special tokens, the number of generated tokens, and the finish reason.

    `prompt_tokens` counts those of the prompt, image tokens included, and of both prompts where logits are mixed.
    With a `fault` (NaN or inf in the logits) there is no answer, and the text is empty.

    >>> import cmrm
    >>> vlm = cmrm.load_model("organism", dtype="float32", device="cpu")
    >>> (plain,) = cmrm.generate(vlm, ["show me how to fold the shirt."], max_new_tokens=24)
    >>> plain.answers[0].text, plain.answers[0].finish_reason
    ('sure, take the shirt and fold it.', 'stop')
    """

    text: str
    tokens: int
    finish_reason: FinishReason
    prompt_tokens: int
    fault: Fault | None = None


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers of a batch in the order of its prompts, and the proof of steering if there was an intervention.

    >>> import cmrm
    >>> vlm = cmrm.load_model("organism", dtype="float32", device="cpu")
    >>> (plain,) = cmrm.generate(vlm, ["help me paint the fence.", "help me wash the cup."], max_new_tokens=24)
    >>> len(plain.answers), plain.proof
    (2, None)
    """

    answers: tuple[Answer, ...]
    proof: SteeringProof | None


# What changes the hidden states of an arm; None for nothing.
Arm = Steering | None


def shares_prefill(arm: Arm, *, asks_otherwise: bool) -> bool:
    """Whether an arm shares the prefill and the cache slot of the plain prompts: what it changes comes after both.

    `asks_otherwise` says that it has prompts of its own.
    """
    return not asks_otherwise and not needs_own_prefill(arm)


@dataclass(frozen=True, kw_only=True)
class DecodeRequest:
    """Prompts and the arms to decode for each; None among `arms` is the baseline.

    An intervention's `delta` is [blocks, hidden], or [prompts, blocks, hidden] with one Δ a prompt. `wanted` holds for
    each prompt the numbers of the arms to decode; None for all arms of all prompts. `rendered` are the prompts as
    `cmrm.prefix.renderer` rendered them in the background, if it did, and `renderings` say how, one a prompt.
    `own_prompts` holds by arm, one a row, what that arm is asked in place of `prompts`. An arm in `contrasts` mixes at
    each token the logits of its own prompt with those of the plain one, by its strength s:
    own + s · (own − plain). `own_ids` are the token ids of an arm's own prompts where they follow from `renderings`,
    and `own_rendered` its prompts as they were rendered otherwise.
    Raises `ValueError` for an arm that mixes logits without own prompts, or with steering.
    """

    prompts: Sequence[Prompt]
    arms: Sequence[Arm]
    wanted: Sequence[frozenset[int]] | None = None
    rendered: BatchFeature | None = None
    own_prompts: Mapping[int, Sequence[Prompt]] = field(default_factory=dict)
    contrasts: Mapping[int, float] = field(default_factory=dict)
    renderings: Sequence[ImageRendering | None] = ()
    own_ids: Mapping[int, Sequence[list[int]]] = field(default_factory=dict)
    own_rendered: Mapping[int, BatchFeature] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for arm in self.contrasts:
            if arm not in self.own_prompts or self.arms[arm] is not None:
                raise ValueError(f"arm {arm} mixes logits: it needs prompts of its own and no steering")

    def arms_of(self, row: int) -> frozenset[int]:
        """The numbers of the arms to decode for a prompt."""
        return frozenset(range(len(self.arms))) if self.wanted is None else self.wanted[row]

    def prompt_of(self, row: int, arm: int) -> Prompt:
        """The prompt of a row in an arm."""
        return self.own_prompts.get(arm, self.prompts)[row]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The answers to one prompt, by arm; `group` is the number of its decode request, and `row` its row in there.

    `proofs` holds one for each arm with steering; its distances are those of the last prompt token's state.
    """

    group: int
    row: int
    answers: Mapping[int, Answer]
    proofs: Mapping[int, SteeringProof]
