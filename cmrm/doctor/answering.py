"""Two ways to answer with an eye on every step: as the product does, and by a naive loop without a cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchFeature

from cmrm.capture import block_output
from cmrm.conditions import Prompt
from cmrm.decoding_rules import make_generation_config
from cmrm.doctor.patient import STEPS, Patient
from cmrm.interventions import Scope
from cmrm.model import VisionLanguageModel, render
from cmrm.steering import Intervention, steer


@dataclass(frozen=True, kw_only=True)
class Steps:
    """An answer step by step: logits [rows, steps, vocabulary] and the chosen tokens [rows, steps]."""

    logits: Tensor
    tokens: Tensor


def answer_steered(
    vlm: VisionLanguageModel, prompts: Sequence[Prompt], intervention: Intervention | None
) -> Steps:
    """Answer with the key-value cache, steered by `cmrm.steering.steer`."""
    inputs = render(vlm, prompts)
    steering: AbstractContextManager[object] = nullcontext()
    if intervention is not None:
        steering = steer(
            vlm, intervention, input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
        )
    with steering:
        return answer(vlm, inputs, use_cache=True)


def answer_naively(
    vlm: VisionLanguageModel, prompt: Prompt, *, moves: dict[int, Tensor], scope: Scope
) -> Steps:
    """Answer one prompt by running the whole sequence anew for each token, editing the blocks' outputs by hand.

    `moves` is what is subtracted, [hidden] by block. Shares no code with `cmrm.steering`.
    """
    inputs = render(vlm, [prompt])
    with _edit_by_hand(vlm, inputs["input_ids"], moves, scope):
        return answer(vlm, inputs, use_cache=False)


@torch.inference_mode()
def answer(vlm: VisionLanguageModel, inputs: BatchFeature, *, use_cache: bool) -> Steps:
    """Answer rendered prompts by exactly `STEPS` greedy tokens."""
    config = make_generation_config(vlm, STEPS)
    # Else an answer that ends at once would leave nothing to compare.
    config.min_new_tokens = STEPS
    config.use_cache = use_cache
    config.return_dict_in_generate = config.output_logits = True
    made: Any = vlm.model.generate(**inputs, generation_config=config)
    length = inputs["input_ids"].shape[1]
    return Steps(logits=torch.stack(made.logits, dim=1).float(), tokens=made.sequences[:, length:])


def agree_in_steps(patient: Patient, found: Steps, expected: Steps, *, what: str) -> float:
    """Compare logits token by token, as long as both chose the same ones: a near tie may fall either way."""
    errors = []
    for step in range(STEPS):
        place = f"{what}, token {step + 1}"
        errors.append(patient.agree(_center(found, step), _center(expected, step), what=place))
        if not torch.equal(found.tokens[:, step], expected.tokens[:, step].to(found.tokens.device)):
            break
    return max(errors)


def _center(steps: Steps, step: int) -> Tensor:
    """Logits [rows, vocabulary] without their mean, to which no probability is sensitive."""
    logits = steps.logits[:, step]
    return logits - logits.mean(dim=-1, keepdim=True)


@contextmanager
def _edit_by_hand(
    vlm: VisionLanguageModel, input_ids: Tensor, moves: dict[int, Tensor], scope: Scope
) -> Iterator[None]:
    length = input_ids.shape[1]
    text = (input_ids[0] != vlm.image_token_id).nonzero().flatten()

    def edit(move: Tensor, output: Any) -> Any:
        hidden = block_output(output).clone()
        if scope == "prefill":
            hidden[:, length - 1] -= move
        elif scope == "every_step":
            hidden[:, length - 1 :] -= move
        else:
            hidden[:, text.to(hidden.device)] -= move
            hidden[:, length:] -= move
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def hook(move: Tensor) -> Any:
        def act(_block: nn.Module, _args: Any, output: Any) -> Any:
            hidden = block_output(output)
            return edit(move.to(hidden.device, hidden.dtype), output)

        return act

    handles = [vlm.blocks[block].register_forward_hook(hook(move)) for block, move in moves.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
