"""What hooks on the source model give: logits to hold an export against, and the canary's answers."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cmrm.api.steer import check_fit, steer
from cmrm.errors import UserError
from cmrm.export.canary import Canary, CanaryPrompt, Expected, are_told_apart
from cmrm.export.request import ExportRequest
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt
from cmrm.steering.intervention import Intervention
from cmrm.steering.settings import Scope

# Prompts of a canary, and the tokens of an answer.
MOST_PROMPTS = 6
MAX_TOKENS = 32
BATCH = 8
# The least distance in logits between first and second choice, so that other kernels choose alike: rounding moves
# logits by about 1e-5 in float32, and by a tenth in half precision.
LEAST_MARGIN = {torch.float32: 0.02, torch.float16: 0.25, torch.bfloat16: 0.5}
# Prompts whose logits are compared, of each kind: with an image and without.
PROBES = 2


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A prompt with the source's logits at every position, steered by hooks and plain: float32 [tokens, vocabulary]."""

    prompt: Prompt
    steered: Tensor
    plain: Tensor


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Probes of the source model, and the canary; `dtype` is that of the loaded weights."""

    probes: tuple[Probe, ...]
    canary: Canary
    dtype: torch.dtype


def make_reference(
    vlm: VisionLanguageModel,
    request: ExportRequest,
    candidates: Sequence[Prompt],
    *,
    format: str,  # noqa: A002 - the field's name
    acts_at: Scope,
) -> Reference:
    """Run the source model under hooks that act as the export will, and choose the canary's prompts.

    Raises `UserError` if Δ is of another model, or no candidate is answered otherwise when steered.
    """
    acting = request.shift.intervene(acts_at)
    check_fit(vlm, acting)
    chosen = choose_prompts(vlm, acting, candidates)
    canary = Canary(
        format=format,
        model=request.model.own_name,
        revision=request.model.revision,
        dtype=str(vlm.model.dtype).removeprefix("torch."),
        shift=request.shift.digest,
        alpha=request.shift.alpha,
        blocks=request.shift.blocks,
        acts_at=acts_at,
        prompts=chosen,
    )
    kinds = ([one for one in candidates if (one.image is not None) is shown] for shown in (True, False))
    probes = [_probe(vlm, acting, one) for kind in kinds for one in kind[:PROBES]]
    return Reference(probes=tuple(probes), canary=canary, dtype=vlm.model.dtype)


@torch.inference_mode()
def read_logits(vlm: VisionLanguageModel, prompt: Prompt) -> Tensor:
    """Read the logits of a prompt at every position: float32 [tokens, vocabulary], on the host."""
    logits: Tensor = vlm.model(**render(vlm, [prompt]), use_cache=False).logits
    return logits[0].float().cpu()


def choose_prompts(
    vlm: VisionLanguageModel, acting: Intervention, candidates: Sequence[Prompt]
) -> tuple[CanaryPrompt, ...]:
    """Choose the candidates whose steered and plain answers part earliest, by the widest margins.

    Those with an image and those without alternate. Raises `UserError` if none is told apart.
    """
    found: dict[bool, list[CanaryPrompt]] = {True: [], False: []}
    for batch in _split(candidates):
        for prompt, made in zip(batch, _answer_both(vlm, acting, batch), strict=True):
            if made is not None:
                found[prompt.image is not None].append(made)
    sides = [sorted(side, key=lambda one: (one.differ_at, -one.margin)) for side in found.values()]
    longest = max(map(len, sides))
    mixed = [side[place] for place in range(longest) for side in sides if place < len(side)]
    if not mixed:
        raise UserError(
            f"export: none of {len(candidates)} prompts is answered otherwise by the steered model within {MAX_TOKENS} "
            "tokens, so no canary could tell it from the plain one. Give a larger α, or prompts of your own "
            "(--canary-prompts)."
        )
    return tuple(mixed[:MOST_PROMPTS])


def list_messages(vlm: VisionLanguageModel, prompt: Prompt) -> list[dict[str, Any]]:
    """Write a prompt as chat messages, the image as a data URL (PNG)."""
    content: Any = prompt.text
    if prompt.image is not None:
        url = f"data:image/png;base64,{base64.b64encode(_to_png(prompt.image)).decode()}"
        content = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": prompt.text},
        ]
    turns = [{"role": "user", "content": content}]
    system = vlm.family.system if prompt.system is None else prompt.system
    return turns if system is None else [{"role": "system", "content": system}, *turns]


def _probe(vlm: VisionLanguageModel, acting: Intervention, prompt: Prompt) -> Probe:
    plain = read_logits(vlm, prompt)
    with steer(vlm, acting):
        steered = read_logits(vlm, prompt)
    return Probe(prompt=prompt, steered=steered, plain=plain)


def _split(candidates: Sequence[Prompt]) -> Iterator[list[Prompt]]:
    for shown in (True, False):
        side = [one for one in candidates if (one.image is not None) is shown]
        for start in range(0, len(side), BATCH):
            yield side[start : start + BATCH]


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """An answer's token ids, and at each the distance in logits to the second choice."""

    tokens: list[int]
    margins: list[float]


def _answer_both(
    vlm: VisionLanguageModel, acting: Intervention, prompts: Sequence[Prompt]
) -> list[CanaryPrompt | None]:
    inputs = render(vlm, prompts)
    ids, masks = inputs["input_ids"].cpu(), inputs["attention_mask"].bool().cpu()
    plain = _answer(vlm, inputs, None)
    steered = _answer(vlm, inputs, acting)
    return [
        _hold_together(vlm, prompt, tuple(row[mask].tolist()), one, other)
        for prompt, row, mask, one, other in zip(prompts, ids, masks, steered, plain, strict=True)
    ]


@torch.inference_mode()
def _answer(vlm: VisionLanguageModel, inputs: Any, acting: Intervention | None) -> list[_Answer]:
    with nullcontext() if acting is None else steer(vlm, acting):
        made = vlm.model.generate(
            **inputs,
            max_new_tokens=MAX_TOKENS,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    top = torch.stack([step.float().topk(2, dim=-1).values for step in made.logits], dim=1).cpu()
    tokens = made.sequences[:, -top.shape[1] :].cpu()
    stops = vlm.model.generation_config.eos_token_id
    stopping = {stops} if isinstance(stops, int) else set(stops or ())
    answers = []
    for row, best in zip(tokens.tolist(), top, strict=True):
        length = next((place + 1 for place, token in enumerate(row) if token in stopping), len(row))
        answers.append(_Answer(tokens=row[:length], margins=(best[:length, 0] - best[:length, 1]).tolist()))
    return answers


def _hold_together(
    vlm: VisionLanguageModel, prompt: Prompt, ids: tuple[int, ...], steered: _Answer, plain: _Answer
) -> CanaryPrompt | None:
    """Make a canary prompt of two answers; None if a server's answer would not tell them apart."""
    pairs = zip(steered.tokens, plain.tokens, strict=False)
    differ = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
    if differ is None:
        return None
    margin = min(*steered.margins[: differ + 1], *plain.margins[: differ + 1])
    expected = [_expect(vlm, one, differ) for one in (steered, plain)]
    if margin < LEAST_MARGIN[vlm.model.dtype] or not are_told_apart(expected[0].start, expected[1].start):
        return None
    return CanaryPrompt(
        messages=tuple(list_messages(vlm, prompt)),
        token_ids=ids,
        max_tokens=MAX_TOKENS,
        differ_at=differ,
        margin=round(margin, 4),
        steered=expected[0],
        unsteered=expected[1],
    )


def _expect(vlm: VisionLanguageModel, answer: _Answer, differ: int) -> Expected:
    def decode(tokens: list[int]) -> str:
        return str(vlm.processor.tokenizer.decode(tokens, skip_special_tokens=True))

    return Expected(
        tokens=tuple(answer.tokens), text=decode(answer.tokens), start=decode(answer.tokens[: differ + 1])
    )


def _to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
