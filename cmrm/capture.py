"""Read hidden states: hooks on the outputs of decoder blocks, at the last prompt token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import BatchFeature

from cmrm.conditions import Prompt
from cmrm.model import VisionLanguageModel, last_prompt_positions, send
from cmrm.packing import pack, read_packed
from cmrm.passes import count_positions, fewest_logits
from cmrm.prefix import Prefixes, lay_out
from cmrm.prefix_cache import open_cache, read_rest
from cmrm.prompt_batch import PromptBatch

Reading = Literal["unsteered", "before_intervention", "after_intervention"]


@dataclass(kw_only=True)
class CapturedStates:
    """What a capture has read, filled in as the model runs: one tensor [rows, hidden] per block, in the model's dtype.

    `reading` says for each block whether an intervention acted on the same output, and on which side of it the state
    was read; a block that was skipped counts as unsteered. Not frozen, since hooks write into it during the forward
    pass.
    """

    states: dict[int, Tensor] = field(default_factory=dict)
    reading: dict[int, Reading] = field(default_factory=dict)

    def stack(self, blocks: Sequence[int]) -> Tensor:
        """The states of these blocks as one tensor [rows, blocks, hidden], on the device of the first block."""
        device = self.states[blocks[0]].device
        return torch.stack([self.states[block].to(device) for block in blocks], dim=1)


class SteeringHook:
    """Marker for hooks that change a block's output, so that a capture can tell which side of them it stands on."""


class _CaptureHook:
    def __init__(self, block: int, positions: Tensor, into: CapturedStates) -> None:
        self.block, self.positions, self.into = block, positions, into

    def __call__(self, module: nn.Module, _args: Any, output: Any) -> None:
        if self.block in self.into.states:
            return  # only the pass over the prompt is read; later passes feed generated tokens
        self.into.states[self.block] = _pick(block_output(output), self.positions)
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
    """Reads what enters the next block that always runs: what has passed a skipped one, whatever acted before it."""

    def __init__(self, block: int, positions: Tensor, into: CapturedStates) -> None:
        self.block, self.positions, self.into = block, positions, into

    def __call__(self, _module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        if self.block in self.into.states:
            return  # the block was not skipped
        hidden = args[0] if args else kwargs["hidden_states"]
        self.into.states[self.block] = _pick(hidden, self.positions)
        self.into.reading[self.block] = "unsteered"


def _pick(hidden: Tensor, positions: Tensor) -> Tensor:
    positions = positions.to(hidden.device)
    rows, columns = (
        positions.unbind(1)
        if positions.dim() == 2
        else (torch.arange(hidden.shape[0], device=hidden.device), positions)
    )
    return hidden[rows, columns].detach()


def block_output(output: Any) -> Tensor:
    """The hidden states in a block's output: transformers returned a tuple before 4.5x and returns a tensor since."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def capture_states(
    vlm: VisionLanguageModel, *, blocks: Sequence[int], positions: Tensor
) -> Iterator[CapturedStates]:
    """Read the outputs of `blocks` at one position per row, or at some rows' positions, in the next forward pass.

    Hooks run in the order they were set: entered around `steer` it reads before the intervention, entered inside
    `steer` it reads after it, and `CapturedStates.reading` says which. `positions` is int64 [rows], or
    [states, 2] with a row and a position each.
    At a block that the model skips for want of an image, the state is what passes it on the residual stream.
    """
    captured = CapturedStates()
    handles = [
        vlm.blocks[block].register_forward_hook(_CaptureHook(block, positions, captured)) for block in blocks
    ]
    handles += [
        vlm.blocks[_next_that_runs(vlm, block)].register_forward_pre_hook(
            _PassingHook(block, positions, captured), with_kwargs=True
        )
        for block in blocks
        if block in vlm.image_only_blocks
    ]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


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
    """States of a batch of prompts at the output of each block, last prompt token: float32 [prompts, blocks, hidden].

    One forward pass without logits; the tensor stays on the model's device. With `prefixes`, what the prompts have in
    common is read once where that saves work, and kept there for the next batch. `rendered` are the prompts as
    `cmrm.renderer` made them beforehand, where it did.
    """
    return read_batch(vlm, lay_out(vlm, prompts, prefixes, rendered=rendered), blocks=blocks)


def read_batch(vlm: VisionLanguageModel, batch: PromptBatch, *, blocks: Sequence[int]) -> Tensor:
    """States of prompts that are laid out, as `embed` gives them."""
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


def read_prompt(vlm: VisionLanguageModel, inputs: BatchFeature, *, blocks: Sequence[int]) -> Tensor:
    """States of rendered prompts, as `embed` gives them; inside `steer` they are read after the intervention."""
    mask = inputs["attention_mask"]
    with capture_states(vlm, blocks=blocks, positions=last_prompt_positions(mask)) as captured:
        # The base model has no language-model head: logits over the vocabulary would be thrown away.
        base = vlm.model.base_model
        base(**inputs, **count_positions(vlm, inputs), **fewest_logits(base), use_cache=False)
    return captured.stack(blocks).float()
