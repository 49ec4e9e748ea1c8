"""Numbers that stop being finite while a model answers: noticed at no cost, then traced to the block where it began."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor

from cmrm.capture import block_output
from cmrm.model import VisionLanguageModel, last_prompt_positions


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Where a row stopped being finite.

    `step` is 0 for the pass over the prompt and n for the one that was fed the n-th generated token; `block` is the
    first whose output at the row's last position was not finite, None where only the logits were not.
    """

    step: int
    block: int | None


class LogitsWatch(LogitsProcessor):
    """Notes on the device, row by row, the first step whose largest logit is not finite, and changes none.

    The largest is the one that greedy decoding goes by. It is NaN as soon as one logit is, and infinite where one has
    overflowed; the −inf of tokens that a model's own settings suppress is not it.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._first: Tensor | None = None

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        finite = scores.amax(dim=-1).isfinite()
        if self._first is None:
            self._first = torch.full_like(finite, -1, dtype=torch.long)
        # Nothing is read back here: the device would have to be waited for at every token.
        self._first = torch.where((self._first < 0) & ~finite, self._steps, self._first)
        self._steps += 1
        return scores

    def first_steps(self) -> list[int]:
        """The first such step of each row, −1 for none."""
        return [] if self._first is None else list(self._first.tolist())


@dataclass(kw_only=True)
class Trace:
    """The first block whose output was not finite, by row and step; filled while the model runs."""

    blocks: dict[tuple[int, int], int] = field(default_factory=dict)

    def locate(self, row: int, step: int) -> Fault:
        """What is to be said of a row whose logits were not finite at a step."""
        return Fault(step=step, block=self.blocks.get((row, step)))


class _TraceHook:
    def __init__(self, block: int, positions: Tensor, into: Trace) -> None:
        self.block, self.positions, self.into = block, positions, into
        self.step = 0

    def __call__(self, _block: nn.Module, _args: Any, output: Any) -> None:
        hidden = block_output(output)
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        # Each pass after the prompt's holds one token a row.
        columns = self.positions.to(hidden.device) if self.step == 0 else torch.zeros_like(rows)
        finite = hidden[rows, columns].isfinite().all(dim=-1)
        for row in (~finite).nonzero().flatten().tolist():
            self.into.blocks.setdefault((row, self.step), self.block)
        self.step += 1


@contextmanager
def trace_blocks(vlm: VisionLanguageModel, attention_mask: Tensor) -> Iterator[Trace]:
    """Look at the outputs of all blocks, at each row's last position, while the body generates with a cache.

    Entered inside `steer` it sees what the intervention left. The device is waited for at each block: for a second
    look only. `attention_mask` is the prompt's, int64 [rows, tokens], either padding side.
    """
    trace = Trace()
    positions = last_prompt_positions(attention_mask)
    handles = [
        block.register_forward_hook(_TraceHook(number, positions, trace))
        for number, block in enumerate(vlm.blocks)
    ]
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()
