"""The reference: plain transformers with one naive forward hook a block, one prompt at a time, without cmrm's code.

The hook subtracts a vector at the last position of each pass, and keeps that state of the first pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from cmrm.models.prompt_states import choose_tolerance
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prompts.conditions import Prompt

NOTHING: Mapping[int, Tensor] = {}
# How far float32 states may be apart for the order of additions alone.
TOLERANCE = 1e-4


def make_inputs(vlm: VisionLanguageModel, prompts: Sequence[Prompt]) -> Any:
    """The processor's own inputs of a batch, padded on the left, in the model's dtype and on its device."""
    processor = vlm.processor
    texts = [
        processor.apply_chat_template(
            [{"role": "user", "content": _list_contents(prompt)}], add_generation_prompt=True, tokenize=False
        )
        for prompt in prompts
    ]
    images = [prompt.image for prompt in prompts if prompt.image is not None]
    given = {"images": images} if images else {}
    inputs = processor(text=texts, **given, return_tensors="pt", padding=True, padding_side="left")
    return inputs.to(vlm.device, vlm.model.dtype)


def _list_contents(prompt: Prompt) -> list[dict[str, str]]:
    image = [] if prompt.image is None else [{"type": "image"}]
    return [*image, {"type": "text", "text": prompt.text}]


@torch.no_grad()
def read_states(
    vlm: VisionLanguageModel,
    prompts: Sequence[Prompt],
    *,
    subtract: Mapping[int, Tensor] = NOTHING,
    size: int = 1,
) -> Tensor:
    """The output of each block at the last prompt token, float32 [prompts, blocks, hidden] on the host.

    `subtract` are the vectors [hidden] of some blocks; states are read after that.
    """
    found = []
    for start in range(0, len(prompts), size):
        kept: dict[int, Tensor] = {}
        with _hook(vlm, subtract, kept):
            vlm.model(**make_inputs(vlm, prompts[start : start + size]))
        found.append(torch.stack([kept[block].float().cpu() for block in range(len(vlm.blocks))], dim=1))
    return torch.cat(found)


@torch.no_grad()
def answer(
    vlm: VisionLanguageModel,
    prompts: Sequence[Prompt],
    *,
    new_tokens: int,
    subtract: Mapping[int, Tensor] = NOTHING,
    size: int = 1,
) -> list[str]:
    """Greedy answers of `new_tokens` tokens by transformers' `generate`, as text without special tokens."""
    config = GenerationConfig(
        do_sample=False,
        min_new_tokens=new_tokens,
        max_new_tokens=new_tokens,
        eos_token_id=vlm.model.generation_config.eos_token_id,
        pad_token_id=vlm.processor.tokenizer.pad_token_id,
    )
    texts = []
    for start in range(0, len(prompts), size):
        inputs = make_inputs(vlm, prompts[start : start + size])
        with _hook(vlm, subtract, {}):
            tokens = vlm.model.generate(**inputs, generation_config=config)
        new = tokens[:, inputs["input_ids"].shape[1] :].tolist()
        texts += [vlm.processor.tokenizer.decode(row, skip_special_tokens=True).strip() for row in new]
    return texts


@torch.no_grad()
def measure_gap(
    vlm: VisionLanguageModel,
    prompt: Prompt,
    tokens: Sequence[int],
    *,
    subtract: Mapping[int, Tensor] = NOTHING,
) -> float:
    """How far the logit of a token of an answer is below the best at most, in standard deviations of its step's logits.

    One pass over the prompt and the answer, with the vectors subtracted from the prompt's last token on.
    """
    inputs = make_inputs(vlm, [prompt])
    length = inputs["input_ids"].shape[1]
    added = torch.tensor([list(tokens)], device=inputs["input_ids"].device)
    for name, more in {
        "input_ids": added,
        "attention_mask": torch.ones_like(added),
        "mm_token_type_ids": torch.zeros_like(added),
    }.items():
        if name in inputs:
            inputs[name] = torch.cat([inputs[name], more], dim=1)
    with _hook(vlm, subtract, {}, first=length - 1):
        logits = vlm.model(**inputs).logits[0, length - 1 : -1].float()
    gaps = logits.amax(dim=-1) - logits.gather(1, added[0, :, None].to(logits.device))[:, 0]
    return float((gaps / logits.std(dim=-1)).nan_to_num(nan=float("inf")).max())


@contextmanager
def _hook(
    vlm: VisionLanguageModel, subtract: Mapping[int, Tensor], kept: dict[int, Tensor], *, first: int = -1
) -> Iterator[None]:
    def make(block: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> Any:
            states = output[0] if isinstance(output, tuple) else output
            if block in subtract:
                states[:, first:] -= subtract[block].to(states.device, states.dtype)
            kept.setdefault(block, states[:, -1].clone())
            return output

        return hook

    handles = [module.register_forward_hook(make(block)) for block, module in enumerate(vlm.blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def measure_distance(found: Tensor, wanted: Tensor) -> float:
    """The largest distance of two states [..., hidden] over the size of the wanted one; infinite if not finite."""
    apart = (found.double().cpu() - wanted.double().cpu()).norm(dim=-1) / wanted.double().cpu().norm(dim=-1)
    return float(apart.nan_to_num(nan=float("inf")).max())


def choose_allowed(dtype: torch.dtype, noise: float) -> float:
    """The distance that is allowed of states, where two batch sizes of transformers differ by `noise`.

    In float32 twice that or the order of additions; in half precision at least what the doctor allows.
    """
    least = TOLERANCE if dtype == torch.float32 else choose_tolerance(dtype)
    return max(least, 2 * noise)


def count_equal(found: Sequence[str], wanted: Sequence[str]) -> int:
    """How many answers are the same."""
    return sum(one == other for one, other in zip(found, wanted, strict=True))
