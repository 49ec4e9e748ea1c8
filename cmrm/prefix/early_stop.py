"""End a block's run at its keys and values: all that a prefill needs of the last block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn.modules import module as all_modules
from transformers import Cache

from cmrm.models.devices import list_placement_hooks
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prefix.block_skipping import can_skip_blocks, replace_forward
from cmrm.prefix.sharing import explain_unshared

# transformers leaves hooks on blocks that return other outputs when they are asked to, and change nothing.
HARMLESS = "transformers."


class KeysTakenError(Exception):
    """Ends a block's run once its keys and values are kept. It never leaves the block."""


@contextmanager
def keeping_keys_alone(vlm: VisionLanguageModel, cache: Cache, *, images: int) -> Iterator[None]:
    """Run the last block up to its keys and values alone, while the body fills a cache by a pass over prompts.

    Queries, attention, output projection and feed-forward of that block make its output, which only the token that is
    decoded next needs: what the pass returns says nothing. Where `can_stop_at` denies it, the block runs to its end.
    """
    last = len(vlm.blocks) - 1
    if not can_stop_at(vlm, last, images=images):
        yield
        return
    block, update = vlm.blocks[last], cache.update

    def keep(keys: Tensor, values: Tensor, layer_idx: int, *arguments: Any, **options: Any) -> Any:
        made = update(keys, values, layer_idx, *arguments, **options)
        if layer_idx == last:
            raise KeysTakenError
        return made

    vars(cache)["update"] = keep
    try:
        with replace_forward(block, partial(_stop, block.forward)):
            yield
    finally:
        del vars(cache)["update"]


def _stop(run: Any, hidden_states: Tensor, *arguments: Any, **options: Any) -> Any:
    try:
        return run(hidden_states, *arguments, **options)
    except KeysTakenError:
        return hidden_states


def can_stop_at(vlm: VisionLanguageModel, block: int, *, images: int) -> bool:
    """Whether a block's run can be ended at its keys and values, in a pass over prompts with so many images.

    That needs what shared prefixes need (a KV cache with an entry for each token, 4-D masks, media that lie in the
    prompt), blocks that can be skipped, and nobody else's hooks on the decoder or on all modules, nor functions in
    place of a block's own, which would see other tokens: those of `steer`, or of a caller. Weights that accelerate
    loads for each call would stay loaded in a block that stops early.
    """
    if explain_unshared(vlm, images=images) is not None or not can_skip_blocks(vlm):
        return False
    if block in vlm.image_only_blocks:
        return False
    if any(getattr(hook, "offload", False) for hook in list_placement_hooks(vlm.blocks[block])):
        return False
    # accelerate puts its own in a block's place, and keeps the block's under another name.
    if any("forward" in vars(one) and not hasattr(one, "_hf_hook") for one in vlm.blocks):
        return False
    hooks = [all_modules._global_forward_hooks, all_modules._global_forward_pre_hooks]
    hooks += (
        hooks
        for module in vlm.decoder.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
    )
    return all(_is_harmless(hook) for registered in hooks for hook in registered.values())


def _is_harmless(hook: object) -> bool:
    return str(getattr(hook, "__module__", "")).startswith(HARMLESS)
