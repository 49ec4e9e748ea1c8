"""NaN and inf during decoding: detected without a device synchronization, then traced to the first block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor

from cmrm.models.block_output import block_output
from cmrm.models.hook_handles import hooked
from cmrm.models.vlm import VisionLanguageModel, last_prompt_positions


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Where NaN or inf began in a row.

    `step` is 0 for the pass over the prompt and n for the one that was fed the n-th generated token; `block` is the
    first whose output at the row's last position was not finite, None where only the logits were not.
    """

    step: int
    block: int | None


class LogitsWatch(LogitsProcessor):
    """Records, on the device, the first step of each row whose largest logit is NaN or inf; changes no logit.

    Greedy decoding picks the largest. It is NaN as soon as one logit is, and inf if one has overflowed; the −inf of
    suppressed tokens never is the largest.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._first: Tensor | None = None

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        finite = scores.amax(dim=-1).isfinite()
        if self._first is None:
            self._first = torch.full_like(finite, -1, dtype=torch.long)
        # Read back at the end alone: here it would be a device synchronization at every token.
        self._first = torch.where((self._first < 0) & ~finite, self._steps, self._first)
        self._steps += 1
        return scores

    def first_steps(self) -> list[int]:
        """The first step of each row with NaN or inf, −1 for none."""
        return [] if self._first is None else list(self._first.tolist())


@dataclass(kw_only=True)
class Trace:
    """The first block whose output was not finite, by row and step; filled while the model runs."""

    blocks: dict[tuple[int, int], int] = field(default_factory=dict)

    def locate(self, row: int, step: int) -> Fault:
        """Build the fault of a row whose logits were not finite at a step."""
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
    """Check the outputs of all blocks for NaN and inf, at each row's last position, while the body generates.

    Entered inside `steer` it sees the steered states. It synchronizes with the device at each block, so it is for
    tracing a known fault only. `attention_mask` is the prompt's, int64 [rows, tokens], either padding side.
    """
    trace = Trace()
    positions = last_prompt_positions(attention_mask)
    with hooked(
        block.register_forward_hook(_TraceHook(number, positions, trace))
        for number, block in enumerate(vlm.blocks)
    ):
        yield trace
