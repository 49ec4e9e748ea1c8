"""The language model of a vision-language model as one ONNX graph that subtracts a shift by itself.

Inputs and outputs are those that Optimum gives a decoder: `input_ids` int64 [batch, new], `attention_mask` int64
[batch, past + new], `past_key_values.N.key` and `.value` float32 [batch, heads, past, head_dim]; `logits` float32
[batch, new, vocabulary], `present.N.key` and `.value`. A prompt goes in whole, behind an empty cache and padded on the
left; each later pass takes one token. The shift is added at the last position of a pass, which is scope every_step.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache

from cmrm.errors import UserError
from cmrm.export.request import ConstantShift
from cmrm.models.block_output import block_output
from cmrm.models.forward_arguments import position_ids
from cmrm.models.hook_handles import hooked
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prefix.packing import make_masks
from cmrm.untrusted.printable import first_line

# The dynamic sizes by name; what is traced is any batch of more than one row and of several tokens.
BATCH, NEW, PAST, TOTAL = "batch", "new", "past", "total"
TRACED_ROWS, TRACED_PAST, TRACED_NEW = 2, 3, 5
PAST_PREFIX = "past_key_values."
PRESENT_PREFIX = "present."


class TextGraph(nn.Module):
    """A vision-language model without images: from token ids, mask and KV cache to logits and the longer cache."""

    def __init__(self, vlm: VisionLanguageModel) -> None:
        super().__init__()
        self.model = vlm.model
        self.config = vlm.model.config.get_text_config()
        self.first_position = vlm.family.first_position

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, past: Sequence[tuple[Tensor, Tensor]]
    ) -> Any:
        """One pass: logits float32 [batch, new, vocabulary], and keys and values of each block."""
        cache: Any = DynamicCache()
        for block, (keys, values) in enumerate(past):
            cache.update(keys, values, block)
        begin = attention_mask.shape[1] - input_ids.shape[1]
        columns = torch.arange(attention_mask.shape[1])
        counted = position_ids(attention_mask, first=self.first_position)
        visible = (columns[None, :] <= columns[begin:, None])[None] & attention_mask[:, None, :].bool()
        made = self.model(
            input_ids=input_ids,
            attention_mask=make_masks(
                self.config,
                visible=visible,
                query_positions=counted[:, begin:],
                key_positions=counted,
                dtype=torch.float32,
            ),
            position_ids=counted[:, begin:],
            past_key_values=cache,
            use_cache=True,
        )
        return made.logits, [(layer.keys, layer.values) for layer in cache.layers]


def write_graph(vlm: VisionLanguageModel, shift: ConstantShift, path: Path) -> None:
    """Write the steered language model of a float32 model as an ONNX file, its weights beside it.

    The attention is to be `eager`. Raises `UserError` for a model that torch cannot write so.
    """
    with torch.no_grad():
        tokens = torch.arange(TRACED_ROWS * TRACED_NEW).reshape(TRACED_ROWS, TRACED_NEW)
        # Any: layers of other caches have no keys, and no such model comes here.
        known: Any = DynamicCache()
        vlm.model(input_ids=tokens[:, :TRACED_PAST], past_key_values=known, use_cache=True)
        past = [(layer.keys, layer.values) for layer in known.layers]
        mask = torch.ones(TRACED_ROWS, TRACED_PAST + TRACED_NEW, dtype=torch.int64)
        names = [f"{block}.{what}" for block in range(len(past)) for what in ("key", "value")]
        cached = {0: BATCH, 2: PAST}
        try:
            with _without_noise(), hooked(steer_last_position(vlm, shift)):
                torch.onnx.export(
                    TextGraph(vlm).eval(),
                    (tokens, mask, past),
                    path,
                    input_names=["input_ids", "attention_mask", *(f"{PAST_PREFIX}{name}" for name in names)],
                    output_names=["logits", *(f"{PRESENT_PREFIX}{name}" for name in names)],
                    dynamic_shapes=(
                        {0: BATCH, 1: NEW},
                        {0: BATCH, 1: TOTAL},
                        [(cached, cached) for _ in past],
                    ),
                    dynamo=True,
                    external_data=True,
                    verbose=False,
                )
        except Exception as error:
            # Tracing runs the model's own code on symbols, which raises nearly any exception.
            # The exporter's own begins with advice in colour.
            reason = first_line(error.__cause__ or error)
            raise UserError(
                f"--to onnx: torch cannot write this language model as a graph ({reason}); use --to checkpoint, or an "
                "engine's own converter on it."
            ) from error


def steer_last_position(vlm: VisionLanguageModel, shift: ConstantShift) -> Iterator[RemovableHandle]:
    """Register hooks that add the shift to the last position of each block's output, by what can be traced."""
    for block, added in zip(shift.blocks, shift.added, strict=True):
        vector = added.float().clone()

        def add(_block: nn.Module, _args: Any, output: Any, vector: Tensor = vector) -> Any:
            hidden = block_output(output)
            steered = torch.cat([hidden[:, :-1], hidden[:, -1:] + vector], dim=1)
            return (steered, *output[1:]) if isinstance(output, tuple) else steered

        yield vlm.blocks[block].register_forward_hook(add)


@contextmanager
def _without_noise() -> Iterator[None]:
    """Keep torch's exporter from warning of its own code: operators of torchvision, names of sizes, old classes."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
