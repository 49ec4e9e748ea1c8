"""Peer implementations, as published."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from speed_cmrm_calls import Said, cut
from torch import Tensor
from transformers import GenerationConfig

from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt


@torch.no_grad()
def read_states(vlm: VisionLanguageModel, prompts: Sequence[Prompt], *, size: int) -> Tensor:
    """The whole model with `output_hidden_states=True`, the last token of each state: [prompts, blocks, hidden].

    With size 1 it is how ShiftDC and re-implementations of CMRM read states. The last block's is after the final norm.
    """
    found = []
    for batch in cut(prompts, size):
        outputs = vlm.model(**render(vlm, batch), output_hidden_states=True, return_dict=True)
        found.append(torch.stack([state[:, -1].float().cpu() for state in outputs.hidden_states[1:]], dim=1))
    return torch.cat(found)


def measure_shift(
    vlm: VisionLanguageModel,
    blank: Sequence[Prompt],
    text: Sequence[Prompt],
    *,
    size: int,
    read: Callable[..., Tensor] = read_states,
) -> Tensor:
    """Mean over the anchors of state with a blank image minus state without: [blocks, hidden]."""
    return (read(vlm, blank, size=size) - read(vlm, text, size=size)).mean(dim=0)


def decode_greedily(vlm: VisionLanguageModel, new_tokens: int) -> GenerationConfig:
    """Greedy decoding of at most so many tokens, with the model's own stop tokens."""
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=new_tokens,
        eos_token_id=vlm.model.generation_config.eos_token_id,
        pad_token_id=vlm.processor.tokenizer.pad_token_id,
    )


@torch.no_grad()
def answer_plainly(
    vlm: VisionLanguageModel, prompts: Sequence[Prompt], *, new_tokens: int, size: int, **more: Any
) -> Said:
    """`model.generate` of transformers on fixed batches, greedy, with the model's own stop tokens."""
    said = []
    tokenizer = vlm.processor.tokenizer
    config = decode_greedily(vlm, new_tokens)
    ends = torch.as_tensor(config.eos_token_id).reshape(-1)
    for batch in cut(prompts, size):
        inputs = render(vlm, batch)
        generated = vlm.model.generate(**inputs, generation_config=config, **more)
        for row in generated[:, inputs["input_ids"].shape[1] :].cpu():
            ended = torch.isin(row, ends)
            length = int(ended.int().argmax()) + 1 if ended.any() else len(row)
            said.append((tokenizer.decode(row[:length], skip_special_tokens=True).strip(), length))
    return [said]


def answer_steered(
    vlm: VisionLanguageModel,
    prompts: Sequence[Prompt],
    *,
    delta: Tensor,
    alpha: float,
    blocks: Sequence[int],
    new_tokens: int,
    size: int,
) -> Said:
    """`model.generate` under hooks that subtract αΔ at the last position; Δ is [blocks, hidden] or one for each row."""
    said = []
    for start, batch in zip(range(0, len(prompts), size), cut(prompts, size), strict=True):
        shift = delta[start : start + size] if delta.dim() == 3 else delta
        with hooks(vlm, shift * alpha, blocks):
            said += answer_plainly(vlm, batch, new_tokens=new_tokens, size=size)[0]
    return [said]


@contextmanager
def hooks(vlm: VisionLanguageModel, shift: Tensor, blocks: Sequence[int]) -> Iterator[None]:
    """Subtract a shift from the last position of each pass."""

    def make(vector: Tensor) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> Any:
            states = output[0] if isinstance(output, tuple) else output
            states[:, -1] -= vector.to(states.device, states.dtype)
            return output

        return hook

    handles = [
        vlm.blocks[block].register_forward_hook(make(shift[..., number, :]))
        for number, block in enumerate(blocks)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def answer_by_own_shift(
    vlm: VisionLanguageModel,
    prompts: Sequence[Prompt],
    *,
    blank: Sequence[Prompt],
    text: Sequence[Prompt],
    alpha: float,
    blocks: Sequence[int],
    new_tokens: int,
    size: int,
) -> Said:
    """Sample level: two more full passes for each prompt, then `generate` under hooks."""
    chosen = list(blocks)
    delta = (read_states(vlm, blank, size=size) - read_states(vlm, text, size=size))[:, chosen]
    return answer_steered(
        vlm, prompts, delta=delta, alpha=alpha, blocks=blocks, new_tokens=new_tokens, size=size
    )


def has_nnsight() -> bool:
    """Whether nnsight is installed."""
    return find_spec("nnsight") is not None


@torch.no_grad()
def trace_states(vlm: VisionLanguageModel, prompts: Sequence[Prompt], *, size: int) -> Tensor:
    """nnsight: each block's output saved inside a trace, the last token of each: [prompts, blocks, hidden]."""
    import nnsight

    traced = nnsight.NNsight(vlm.model)
    names = {id(module): name for name, module in vlm.model.named_modules()}
    paths = [names[id(block)] for block in vlm.blocks]
    found = []
    for batch in cut(prompts, size):
        with traced.trace(**render(vlm, batch)):
            kept = nnsight.save([])
            for path in paths:
                kept.append(_follow(traced, path).output)
        states = [one[0] if isinstance(one, tuple) else one for one in kept]
        found.append(torch.stack([state[:, -1].float().cpu() for state in states], dim=1))
    return torch.cat(found)


def _follow(envoy: Any, path: str) -> Any:
    for part in path.split("."):
        envoy = envoy[int(part)] if part.isdigit() else getattr(envoy, part)
    return envoy
