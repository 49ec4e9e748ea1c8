"""Decoders that would run some blocks over the last tokens of a prompt alone, and are made to run them over all."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

ARGUMENT = "logits_to_keep"


def run_all_tokens(decoder: nn.Module) -> None:
    """Let all blocks of a decoder run over all tokens of a pass, however few logits are asked for.

    Gemma 4's blocks that take keys and values from earlier ones need no states of a prompt but those that logits are
    made of, and skip the others in a pass that asks for the last token's logits, as `generate` does; hooks would then
    find other tokens there than in a pass that reads states, and fewer. A decoder with a head of its own is left as it
    is: its logits are what the argument is for.
    """
    takes = ARGUMENT in inspect.signature(decoder.forward).parameters and not hasattr(decoder, "lm_head")
    if takes and _keep_all not in decoder._forward_pre_hooks.values():
        decoder.register_forward_pre_hook(_keep_all, with_kwargs=True)


def _keep_all(
    _decoder: nn.Module, arguments: tuple[Any, ...], given: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    return (arguments, {**given, ARGUMENT: 0}) if given.get(ARGUMENT) else None
