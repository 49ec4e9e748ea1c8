"""Extract hidden states: forward hooks on the outputs of decoder blocks, at the last prompt token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import BatchFeature

from cmrm.models.forward_arguments import count_positions, fewest_logits
from cmrm.models.hook_handles import hooked
from cmrm.models.vlm import VisionLanguageModel, last_prompt_positions, send
from cmrm.prefix.cache import PromptBatch, open_cache, read_rest
from cmrm.prefix.packing import pack, read_packed
from cmrm.prefix.planner import Prefixes, lay_out
from cmrm.prompts.conditions import Prompt

# Dimensions of a block's output in parallel streams.
STREAMED = 4
Reading = Literal["unsteered", "before_intervention", "after_intervention"]
# Chooses or combines states of a block's output [rows, tokens, hidden]; of its result the first axis is rows.
Pick = Callable[[Tensor], Tensor]


@dataclass(kw_only=True)
class CapturedStates:
    """Captured hidden states: one tensor [rows, hidden] per block, in the model's dtype, or what a `Pick` made.

    `reading` says for each block whether the state was read before or after an intervention on the same output; a
    block that was skipped counts as unsteered. Not frozen, since hooks write into it during the forward pass.
    """

    states: dict[int, Tensor] = field(default_factory=dict)
    reading: dict[int, Reading] = field(default_factory=dict)

    def stack(self, blocks: Sequence[int]) -> Tensor:
        """Stack the states of these blocks into one tensor [rows, blocks, …], on the first block's device."""
        device = self.states[blocks[0]].device
        return torch.stack([self.states[block].to(device) for block in blocks], dim=1)


class SteeringHook:
    """Marker of hooks that change a block's output, so that a capture knows whether it reads before or after them."""


class _CaptureHook:
    def __init__(self, block: int, pick: Pick, into: CapturedStates) -> None:
        self.block, self.pick, self.into = block, pick, into

    def __call__(self, module: nn.Module, _args: Any, output: Any) -> None:
        if self.block in self.into.states:
            return  # only prefill is captured; later passes feed generated tokens
        self.into.states[self.block] = self.pick(block_output(output)).detach()
        self.into.reading[self.block] = self._side(module)

    def _side(self, module: nn.Module) -> Reading:
        hooks = list(module._forward_hooks.values())
        mine = hooks.index(self)
        if any(isinstance(hook, SteeringHook) for hook in hooks[:mine]):
            return "after_intervention"
        if any(isinstance(hook, SteeringHook) for hook in hooks[mine:]):
            return "before_intervention"
        return "unsteered"


class _PassingHook:
    """Captures the input of the next block that always runs: the residual stream past a skipped block."""

    def __init__(self, block: int, pick: Pick, into: CapturedStates) -> None:
        self.block, self.pick, self.into = block, pick, into

    def __call__(self, _module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        if self.block in self.into.states:
            return  # the block was not skipped
        hidden = args[0] if args else kwargs["hidden_states"]
        self.into.states[self.block] = self.pick(hidden).detach()
        self.into.reading[self.block] = "unsteered"


def _pick_at(positions: Tensor, hidden: Tensor) -> Tensor:
    positions = positions.to(hidden.device)
    rows, columns = (
        positions.unbind(1)
        if positions.dim() == 2
        else (torch.arange(hidden.shape[0], device=hidden.device), positions)
    )
    return hidden[rows, columns]


def block_output(output: Any) -> Tensor:
    """Get the hidden states [rows, tokens, width] from a block's output, which may be a tuple.

    Of parallel streams, [streams, rows, tokens, hidden] (Gemma 3n), the state is all of them side by side.
    """
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden.movedim(0, -2).flatten(-2) if hidden.dim() == STREAMED else hidden


def replace_states(output: Any, states: Tensor) -> Any:
    """Make a block's output with other states [rows, tokens, width], in the shape of its own."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    if hidden.dim() == STREAMED:
        states = states.unflatten(-1, (len(hidden), hidden.shape[-1])).movedim(-2, 0)
    return (states, *output[1:]) if isinstance(output, tuple) else states


@contextmanager
def capture_states(
    vlm: VisionLanguageModel, *, blocks: Sequence[int], positions: Tensor | Pick
) -> Iterator[CapturedStates]:
    """Capture the outputs of `blocks` at one position per row, or at given positions, in the next forward pass.

    Hooks run in the order of their registration: entered around `steer` it reads before the intervention, entered
    inside `steer` it reads after it, and `CapturedStates.reading` says which. `positions` is int64 [rows], or
    [states, 2] with a row and a position each; or a function that picks from the output [rows, tokens, hidden].
    At a block that the model skips without an image, the state is the residual stream that passes it.
    """
    captured = CapturedStates()
    pick: Pick = partial(_pick_at, positions) if isinstance(positions, Tensor) else positions
    reading = (
        vlm.blocks[block].register_forward_hook(_CaptureHook(block, pick, captured)) for block in blocks
    )
    passing = (
        vlm.blocks[_next_that_runs(vlm, block)].register_forward_pre_hook(
            _PassingHook(block, pick, captured), with_kwargs=True
        )
        for block in blocks
        if block in vlm.image_only_blocks
    )
    with hooked(reading), hooked(passing):
        yield captured


def _next_that_runs(vlm: VisionLanguageModel, block: int) -> int:
    return next(later for later in range(block, len(vlm.blocks)) if later not in vlm.image_only_blocks)


@torch.inference_mode()
def embed(
    vlm: VisionLanguageModel,
    prompts: Sequence[Prompt],
    *,
    blocks: Sequence[int],
    prefixes: Prefixes | None = None,
    rendered: BatchFeature | None = None,
) -> Tensor:
    """Extract hidden states of a batch at each block's output, last prompt token: float32 [prompts, blocks, hidden].

    One forward pass without logits; the tensor stays on the model's device. With `prefixes`, a shared prefix is
    prefilled once if that saves work, and cached there for the next batch. `rendered` are the prompts as
    `cmrm.prefix.renderer` rendered them in the background, if it did.
    """
    if len(prompts) > 1 and not vlm.family.batches:
        return torch.cat([embed(vlm, [prompt], blocks=blocks) for prompt in prompts])
    return read_batch(vlm, lay_out(vlm, prompts, prefixes, rendered=rendered), blocks=blocks)


def read_batch(vlm: VisionLanguageModel, batch: PromptBatch, *, blocks: Sequence[int]) -> Tensor:
    """Extract the hidden states of a laid-out batch, as `embed` does."""
    if batch.prefix is None:
        return read_prompt(vlm, batch.inputs, blocks=blocks)
    if len(batch.prefix.mask) == 1:
        packed = pack(vlm, batch)
        with capture_states(vlm, blocks=blocks, positions=packed.last) as captured:
            read_packed(vlm, batch, packed)
        return captured.stack(blocks).float()
    batch = replace(batch, inputs=send(vlm, batch.inputs))
    last = last_prompt_positions(batch.inputs["attention_mask"])
    with capture_states(vlm, blocks=blocks, positions=last) as captured:
        read_rest(vlm, batch, open_cache(batch))
    return captured.stack(blocks).float()


def read_prompt(
    vlm: VisionLanguageModel, inputs: BatchFeature, *, blocks: Sequence[int], pick: Pick | None = None
) -> Tensor:
    """Extract the hidden states of rendered prompts, as `embed` does; inside `steer`, after the intervention.

    With `pick`, float32 [prompts, blocks, …] of what it picks.
    """
    positions = last_prompt_positions(inputs["attention_mask"]) if pick is None else pick
    with capture_states(vlm, blocks=blocks, positions=positions) as captured:
        # The base model has no language-model head: logits over the vocabulary would be discarded.
        base = vlm.model.base_model
        base(**inputs, **count_positions(vlm, inputs), **fewest_logits(base), use_cache=False)
    return captured.stack(blocks).float()
