"""What the arms of one request share of their prefill, against whole passes.

How far keys and values are from those of a pass of the model alone, by arm, and how often the tower and the first block
were run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tests.conformance.defences import draw_image

if TYPE_CHECKING:
    from cmrm.models.vlm import VisionLanguageModel
    from cmrm.prompts.conditions import Prompt

QUESTIONS = ("what is it?", "name every colour that you can see")
CAREFUL = "be careful! "
ARMS = ("plain", "early", "late", "careful", "mixed", "careful and early")


def compare_prefills(vlm: VisionLanguageModel) -> dict[str, Any] | None:
    """Prefill two questions in all arms: the largest distance by arm, and the passes of the tower and of block 0.

    None of a model whose prompts with images share nothing.
    """
    from cmrm.decoding.request_prefill import RequestPrefill
    from cmrm.decoding.requests import DecodeRequest
    from cmrm.decoding.scheduler import split_request
    from cmrm.prefix.planner import Prefixes
    from cmrm.prompts.conditions import Prompt
    from cmrm.steering.intervention import Intervention

    if vlm.family.shares != "all":
        return None
    plain = [Prompt(text=text, image=draw_image(row)) for row, text in enumerate(QUESTIONS)]
    own = [Prompt(text=CAREFUL + prompt.text, image=prompt.image) for prompt in plain]
    delta = torch.randn(2, vlm.hidden_size, generator=torch.Generator().manual_seed(7))
    last = len(vlm.blocks) - 1
    early = Intervention(
        delta=delta, alpha=1.0, blocks=(0, last), scope="every_position", composition="direct"
    )
    late = Intervention(delta=delta[:1], alpha=1.0, blocks=(last - 1,), scope="all", composition="direct")
    request = DecodeRequest(
        prompts=plain,
        arms=[None, early, late, None, None, early],
        own_prompts={3: own, 4: own, 5: own},
        contrasts={4: 1.0},
    )
    parts = split_request(request, 0, most=8)
    shared = RequestPrefill(vlm, Prefixes(vlm), request=request, parts=parts)
    with count_passes(vlm) as passes:
        found = [shared.prefill(part) for part in parts]
    moved = {
        arm: dict(zip(one.blocks, one.delta, strict=True)) for arm, one in ((1, early), (2, late), (5, early))
    }
    apart: dict[str, float] = {}
    for part, made in zip(parts, found, strict=True):
        (arm,) = part.arms
        for row, prompt in enumerate(part.prompts):
            visible = made.visible[row]
            wanted, position = read_alone(vlm, prompt, moved.get(arm, {}), everywhere=arm != 2)
            assert int(made.positions[row]) == position
            for (keys, values), expected in zip(made.layers, wanted, strict=True):
                for one, other in zip((keys, values), expected, strict=True):
                    distance = float((one[row][:, visible] - other[0, :, :-1]).abs().max())
                    apart[ARMS[arm]] = max(distance, apart.get(ARMS[arm], 0.0))
    return {"apart": apart, **passes}


def read_alone(
    vlm: VisionLanguageModel, prompt: Prompt, moved: Mapping[int, Tensor], *, everywhere: bool
) -> tuple[Sequence[tuple[Tensor, Tensor]], int]:
    """Keys and values of each block by one pass over one prompt, and the last token's position, which is text's."""
    from transformers import DynamicCache

    from cmrm.models.forward_arguments import count_positions
    from cmrm.models.vlm import render

    inputs = render(vlm, [prompt])
    chosen = torch.ones_like(inputs["input_ids"]) if everywhere else inputs["input_ids"] != vlm.image_token_id

    def subtract(vector: Tensor) -> Any:
        def act(_block: nn.Module, _args: Any, output: Tensor) -> Tensor:
            if output.dim() == 3:
                return output - vector * chosen[..., None]
            # Gemma 3n's streams, [streams, rows, tokens, hidden], each with its part of the vector.
            return output - vector.view(len(output), 1, 1, -1) * chosen[..., None]

        return act

    handles = [vlm.blocks[block].register_forward_hook(subtract(vector)) for block, vector in moved.items()]
    cache = DynamicCache()
    with torch.inference_mode():
        vlm.model(**inputs, **count_positions(vlm, inputs), past_key_values=cache, use_cache=True)
    for handle in handles:
        handle.remove()
    counted = int(inputs["attention_mask"].sum()) - 1 + vlm.family.first_position
    turned = int(vlm.model.base_model.rope_deltas) if vlm.family.positions == "multimodal" else 0
    return [(layer.keys, layer.values) for layer in cache.layers], counted + turned


@contextmanager
def count_passes(vlm: VisionLanguageModel) -> Iterator[dict[str, int]]:
    """Count the passes of the tower and those of the first block's attention."""
    passes = {"tower": 0, "block": 0}
    owner = type(vlm.model.base_model)
    original = owner.get_image_features

    def count(_module: nn.Module, _args: Any, _kwargs: Any) -> None:
        passes["block"] += 1

    def look(*arguments: Any, **options: Any) -> Any:
        passes["tower"] += 1
        return original(*arguments, **options)

    owner.get_image_features = look
    handle = vlm.blocks[0].self_attn.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield passes
    finally:
        owner.get_image_features = original
        handle.remove()
