"""Blocks that are not run again: their outputs are kept in one pass and given in another on the same prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from cmrm.models.block_output import block_output
from cmrm.models.family_lookup import is_of_table
from cmrm.models.hook_handles import hooked
from cmrm.models.vlm import VisionLanguageModel


def can_skip_blocks(vlm: VisionLanguageModel) -> bool:
    """Whether a block's input is all that later blocks need of earlier ones: where the table describes the model.

    Not so where the last blocks take the keys of earlier ones (Gemma 4) or blocks give parallel streams. A block that
    was compiled by itself may not be replaced.
    """
    if vlm.family.streams is not None:
        return False
    if getattr(vlm.model.config.get_text_config(), "num_kv_shared_layers", 0):
        return False
    compiled = any(getattr(block, "_compiled_call_impl", None) is not None for block in vlm.blocks)
    return is_of_table(vlm.family, vlm.model) and not compiled


@contextmanager
def keep_outputs(vlm: VisionLanguageModel, blocks: Sequence[int]) -> Iterator[Mapping[int, Tensor]]:
    """Keep the outputs of blocks in the body's forward pass, by block, [rows, tokens, hidden]."""
    kept: dict[int, Tensor] = {}

    def keep(block: int) -> Callable[[nn.Module, Any, Any], None]:
        def note(_block: nn.Module, _args: Any, output: Any) -> None:
            kept[block] = block_output(output)

        return note

    with hooked(vlm.blocks[block].register_forward_hook(keep(block)) for block in blocks):
        yield kept


@contextmanager
def skip_blocks(vlm: VisionLanguageModel, outputs: Mapping[int, Tensor | None]) -> Iterator[None]:
    """Skip blocks while the body runs: each gives the output that is set, or its input where None is.

    Hooks on a skipped block act on what it gives, and what the model adds between blocks (deepstack) is added. A
    skipped block writes nothing to the KV cache.
    """
    with ExitStack() as stack:
        for block, output in outputs.items():
            stack.enter_context(replace_forward(vlm.blocks[block], partial(_give, output)))
        yield


def _give(output: Tensor | None, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    # A copy: a model may change what a block returns in place.
    return hidden_states if output is None else output.clone()


@contextmanager
def replace_forward(block: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a block run another function while the body runs; its hooks act on what that returns."""
    # Set on the instance; accelerate keeps the forward of an offloaded block there, too.
    own = vars(block).get("forward")
    vars(block)["forward"] = forward
    try:
        yield
    finally:
        if own is None:
            del vars(block)["forward"]
        else:
            vars(block)["forward"] = own
