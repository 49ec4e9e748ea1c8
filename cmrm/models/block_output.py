"""The hidden states in what a decoder block returns."""

from __future__ import annotations

from typing import Any

from torch import Tensor

# Dimensions of a block's output in parallel streams.
STREAMED = 4


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
