"""Greedy generation that records logits at each step: with a KV cache and steering, and by a naive cache-free loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchFeature

from cmrm.decoding.stop_tokens import make_generation_config
from cmrm.doctor.fixture import STEPS, CheckFailedError, ModelFixture
from cmrm.models.block_output import block_output, replace_states
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prompts.conditions import Prompt
from cmrm.steering.hooks import steer
from cmrm.steering.intervention import Steering
from cmrm.steering.settings import Scope

# Models that must not answer with some tokens (Chameleon: those of images) give them the lowest number of their dtype;
# no other logit is as low as float16's.
RULED_OUT = -6e4
# What `generate` makes longer with each token; it leaves ERNIE's `moe_mm_token_type_ids` as they are.
LENGTHENED = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}
# What is subtracted from states at a block, float32 [..., hidden], computed from them.
Move = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Steps:
    """A generated answer: the logits of each step [rows, steps, vocabulary] and the chosen tokens [rows, steps]."""

    logits: Tensor
    tokens: Tensor


def answer_plainly(fixture: ModelFixture, prompts: Sequence[Prompt]) -> Steps:
    """Generate with the KV cache and no intervention, the same prompts once."""
    return fixture.make_once("plain answer", prompts, lambda: answer_steered(fixture, prompts, None))


def answer_steered(fixture: ModelFixture, prompts: Sequence[Prompt], intervention: Steering | None) -> Steps:
    """Generate with the KV cache, steered by `cmrm.steering.hooks.steer`."""
    vlm, inputs = fixture.vlm, fixture.render(prompts)
    steering: AbstractContextManager[object] = nullcontext()
    if intervention is not None:
        steering = steer(
            vlm, intervention, input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
        )
    with steering:
        return answer(vlm, inputs, use_cache=True)


def answer_naively(
    fixture: ModelFixture, prompt: Prompt, *, moves: Mapping[int, Move], scope: Scope
) -> Steps:
    """Generate for one prompt, running the whole sequence again for each token and editing block outputs in hooks.

    `moves` holds what is subtracted at each block. Shares no code with `cmrm.steering.hooks`.
    """
    vlm, inputs = fixture.vlm, fixture.render([prompt])
    with _edit_by_hand(vlm, inputs["input_ids"], moves, scope):
        if _list_token_inputs(inputs) <= LENGTHENED:
            return answer(vlm, inputs, use_cache=False)
        tokens = inputs["input_ids"][:, :0]
        logits = []
        for _ in range(STEPS):
            made = answer(vlm, BatchFeature(_append(inputs, tokens)), use_cache=False, steps=1)
            logits.append(made.logits)
            tokens = torch.cat([tokens, made.tokens], dim=1)
    return Steps(logits=torch.cat(logits, dim=1), tokens=tokens)


@torch.inference_mode()
def answer_mixed_naively(
    fixture: ModelFixture, own: Prompt, plain: Prompt, *, strength: float, never: Tensor
) -> Steps:
    """Generate by the logits own + strength · (own − plain), running both whole sequences again for each token.

    `never` are the tokens that are not allowed, int64 [tokens]. Shares no code with `cmrm.decoding`.
    """
    asked = [fixture.render([prompt]) for prompt in ((own, plain) if strength else (own,))]
    tokens = asked[0]["input_ids"][:, :0]
    steps = []
    for _ in range(STEPS):
        first, *others = (
            fixture.vlm.model(**_append(inputs, tokens), use_cache=False).logits[:, -1].float()
            for inputs in asked
        )
        steps.append(first + strength * sum(first - other for other in others))
        chosen = steps[-1].index_fill(-1, never.to(first.device), -torch.inf).argmax(dim=-1)
        tokens = torch.cat([tokens, chosen[:, None].to(tokens.device)], dim=1)
    return Steps(logits=torch.stack(steps, dim=1), tokens=tokens)


def _append(inputs: BatchFeature, tokens: Tensor) -> dict[str, Any]:
    """The input of a prompt with an answer's tokens [1, tokens] behind it, which are text."""
    more = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    long = _list_token_inputs(inputs)
    return {
        name: torch.cat([value, more.get(name, torch.zeros_like(tokens)).to(value.dtype)], dim=1)
        if name in long
        else value
        for name, value in inputs.items()
    }


def _list_token_inputs(inputs: BatchFeature) -> set[str]:
    """List the inputs that have one number a token."""
    shape = inputs["input_ids"].shape
    return {name for name, value in inputs.items() if isinstance(value, Tensor) and value.shape == shape}


@torch.inference_mode()
def answer(vlm: VisionLanguageModel, inputs: BatchFeature, *, use_cache: bool, steps: int = STEPS) -> Steps:
    """Generate exactly so many greedy tokens for rendered prompts."""
    config = make_generation_config(vlm, steps)
    # An answer that ended at the first token would leave nothing to compare.
    config.min_new_tokens = steps
    config.use_cache = use_cache
    config.return_dict_in_generate = config.output_logits = True
    made: Any = vlm.model.generate(**inputs, generation_config=config)
    length = inputs["input_ids"].shape[1]
    return Steps(logits=torch.stack(made.logits, dim=1).float(), tokens=made.sequences[:, length:])


def agree_in_steps(fixture: ModelFixture, found: Steps, expected: Steps, *, what: str) -> float:
    """Compare logits step by step until the tokens differ (a near tie may go either way); return the largest error."""
    errors = []
    for step in range(STEPS):
        where = f"{what}, token {step + 1}"
        one, other = found.logits[:, step], expected.logits[:, step].to(found.logits.device)
        if not torch.equal(_find_ruled_out(one), _find_ruled_out(other)):
            raise CheckFailedError(f"{where}: other tokens are ruled out")
        errors.append(fixture.agree(_center(one), _center(other), what=where))
        if not torch.equal(found.tokens[:, step], expected.tokens[:, step].to(found.tokens.device)):
            break
    return max(errors)


def _center(logits: Tensor) -> Tensor:
    """Logits [rows, vocabulary] minus their mean, which softmax ignores; 0 for tokens that are ruled out."""
    allowed = ~_find_ruled_out(logits)
    mean = logits.where(allowed, 0).sum(dim=-1, keepdim=True) / allowed.sum(dim=-1, keepdim=True)
    return (logits - mean).where(allowed, 0)


def _find_ruled_out(logits: Tensor) -> Tensor:
    """Find tokens that are ruled out: bool, of the shape of `logits`; NaN and -inf are faults, and rule out none."""
    return (logits < RULED_OUT) & logits.isfinite()


@contextmanager
def _edit_by_hand(
    vlm: VisionLanguageModel, input_ids: Tensor, moves: Mapping[int, Move], scope: Scope
) -> Iterator[None]:
    length = input_ids.shape[1]
    shown = [place for place, token in enumerate(input_ids[0].tolist()) if token in vlm.medium_tokens]
    first = length - 1 if scope in ("prefill", "every_step") else 0
    left_out = frozenset(shown if scope == "all" else ())

    def hook(move: Move) -> Any:
        def act(_block: nn.Module, _args: Any, output: Any) -> Any:
            hidden = block_output(output).clone()
            last = length if scope == "prefill" else hidden.shape[1]
            chosen = [position for position in range(first, last) if position not in left_out]
            states = hidden[:, chosen].float()
            hidden[:, chosen] = (states - move(states)).to(hidden.dtype)
            return replace_states(output, hidden)

        return act

    handles = [vlm.blocks[block].register_forward_hook(hook(move)) for block, move in moves.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
