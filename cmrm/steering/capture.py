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

from cmrm.models.block_output import block_output
from cmrm.models.forward_arguments import run_without_head
from cmrm.models.hook_handles import hooked
from cmrm.models.vlm import VisionLanguageModel, last_prompt_positions, send
from cmrm.prefix.cache import (
    Prefix,
    PromptBatch,
    begin_nowhere,
    continue_cache,
    is_text,
    open_cache,
    read_rest,
)
from cmrm.prefix.early_stop import can_stop_at
from cmrm.prefix.last_block import (
    LastBlock,
    Queries,
    find_ends,
    find_ends_of_packed,
    find_ends_of_rests,
)
from cmrm.prefix.packing import mask_packed, pack, read_packed
from cmrm.prefix.planner import Prefixes, lay_out
from cmrm.prompts.conditions import Prompt

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

    One forward pass without logits, which leaves out what none of these states needs; the tensor stays on the model's
    device. With `prefixes`, a shared prefix is prefilled once if that saves work, and cached there for the next batch,
    and texts of different lengths are packed. `rendered` are the prompts as `cmrm.prefix.renderer` rendered them in the
    background, if it did.
    """
    if len(prompts) > 1 and not vlm.family.batches:
        return torch.cat([embed(vlm, [prompt], blocks=blocks) for prompt in prompts])
    batch = lay_out(vlm, prompts, prefixes, rendered=rendered)
    if prefixes is not None and prefixes.may_pack(batch):
        batch = replace(batch, prefix=begin_nowhere(vlm))
    return read_batch(vlm, batch, blocks=blocks)


def read_batch(vlm: VisionLanguageModel, batch: PromptBatch, *, blocks: Sequence[int]) -> Tensor:
    """Extract the hidden states of a laid-out batch, as `embed` does."""
    prefix = batch.prefix
    if prefix is None:
        return _read_whole(vlm, send(vlm, batch.inputs), blocks=blocks)
    if len(prefix.mask) == 1:
        return _read_packed(vlm, batch, prefix=prefix, blocks=blocks)
    return _read_rests(vlm, replace(batch, inputs=send(vlm, batch.inputs)), prefix=prefix, blocks=blocks)


def _read_whole(vlm: VisionLanguageModel, inputs: BatchFeature, *, blocks: Sequence[int]) -> Tensor:
    if not can_stop_at(vlm, max(blocks), images=0 if is_text(inputs) else 1):
        return read_prompt(vlm, inputs, blocks=blocks)
    top = LastBlock(vlm, max(blocks))
    run = partial(run_without_head, vlm, inputs, cache=top.cache)
    last = last_prompt_positions(inputs["attention_mask"])
    return _read_twice(vlm, top, run, partial(find_ends, vlm, inputs), blocks=blocks, last=last)


def _read_packed(
    vlm: VisionLanguageModel, batch: PromptBatch, *, prefix: Prefix, blocks: Sequence[int]
) -> Tensor:
    packed = pack(vlm, batch)
    masks, owners = mask_packed(vlm, packed, prefix=prefix), packed.ids.new_zeros(len(packed.ids))
    run = partial(read_packed, vlm, packed, prefix=prefix, masks=masks)
    if can_stop_at(vlm, max(blocks), images=0):
        top = LastBlock(vlm, max(blocks), prefix=prefix, owners=owners)
        ends = partial(find_ends_of_packed, packed, prefix=prefix, masks=masks)
        states = _read_twice(vlm, top, partial(run, cache=top.cache), ends, blocks=blocks, last=packed.last)
    else:
        with capture_states(vlm, blocks=blocks, positions=packed.last) as captured:
            run(cache=continue_cache(prefix, owners))
        states = captured.stack(blocks).float()
    if batch.rows > 1:
        # A score of NaN stays so under a mask: what goes wrong in one prompt is seen in all of its row.
        for row in (~states.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist():
            states[row] = _read_packed(vlm, batch.of_row(row), prefix=prefix, blocks=blocks)[0]
    return states


def _read_rests(
    vlm: VisionLanguageModel, batch: PromptBatch, *, prefix: Prefix, blocks: Sequence[int]
) -> Tensor:
    last = last_prompt_positions(batch.inputs["attention_mask"])
    if not can_stop_at(vlm, max(blocks), images=0):
        with capture_states(vlm, blocks=blocks, positions=last) as captured:
            read_rest(vlm, batch, open_cache(batch))
        return captured.stack(blocks).float()
    owners = batch.owners
    assert owners is not None  # a batch with a prefix has owners
    top = LastBlock(vlm, max(blocks), prefix=prefix, owners=owners)
    ends = partial(find_ends_of_rests, vlm, batch, prefix=prefix, owners=owners)
    return _read_twice(vlm, top, partial(read_rest, vlm, batch, top.cache), ends, blocks=blocks, last=last)


def _read_twice(
    vlm: VisionLanguageModel,
    top: LastBlock,
    run: Callable[[], object],
    find_queries: Callable[[], Queries],
    *,
    blocks: Sequence[int],
    last: Tensor,
) -> Tensor:
    """Extract states by two passes: `run`, up to the keys and values of the last block, and that block's rest."""
    with capture_states(vlm, blocks=blocks, positions=last) as captured, top.stopping():
        run()
    if top.has_stopped:
        queries = find_queries()
        with capture_states(vlm, blocks=[top.number], positions=queries.index) as again:
            top.read(queries)
        captured.states |= again.states
    return captured.stack(blocks).float()


def read_prompt(
    vlm: VisionLanguageModel, inputs: BatchFeature, *, blocks: Sequence[int], pick: Pick | None = None
) -> Tensor:
    """Extract the hidden states of rendered prompts, as `embed` does; inside `steer`, after the intervention.

    With `pick`, float32 [prompts, blocks, …] of what it picks.
    """
    positions = last_prompt_positions(inputs["attention_mask"]) if pick is None else pick
    with capture_states(vlm, blocks=blocks, positions=positions) as captured:
        run_without_head(vlm, inputs)
    return captured.stack(blocks).float()
