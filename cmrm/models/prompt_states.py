"""States of prompts as extraction reads them, and whether two are the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchFeature

from cmrm.models.block_output import block_output
from cmrm.models.forward_arguments import run_without_head
from cmrm.models.hook_handles import hooked
from cmrm.models.vlm import VisionLanguageModel, last_prompt_positions, render
from cmrm.prompts.conditions import Prompt

# Allowed error between two computations of the same states, relative to their norm. Rounding accumulates over dozens
# of blocks; a real fault (another token, another row, no steering) gives an error of about 1.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 2e-2}
COARSEST = 6e-2


def read_states(vlm: VisionLanguageModel, prompts: Sequence[Prompt]) -> dict[int, Tensor]:
    """Render prompts as one batch, and read their states as `read_inputs` does."""
    return read_inputs(vlm, render(vlm, prompts))


def read_inputs(vlm: VisionLanguageModel, inputs: BatchFeature) -> dict[int, Tensor]:
    """Read the states of each block that runs at the last token, [rows, hidden], as extraction does."""
    last = last_prompt_positions(inputs["attention_mask"])
    found: dict[int, Tensor] = {}

    def note(number: int) -> Any:
        def act(_module: nn.Module, _args: Any, output: Any) -> None:
            states = block_output(output)
            found[number] = states[torch.arange(len(states), device=states.device), last.to(states.device)]

        return act

    with hooked(block.register_forward_hook(note(number)) for number, block in enumerate(vlm.blocks)):
        run_without_head(vlm, inputs)
    return found


def compare_states(found: Tensor, expected: Tensor) -> Tensor:
    """Relative errors of states [..., hidden], [...]; not finite ones count as one off by infinity."""
    one, other = found.float(), expected.to(found.device).float()
    error = (one - other).norm(dim=-1) / other.norm(dim=-1).clamp(min=1e-6)
    return error.nan_to_num(nan=float("inf"))


def choose_tolerance(dtype: torch.dtype) -> float:
    """Choose the relative error below which states of this dtype are the same."""
    return TOLERANCES.get(dtype, COARSEST)
