"""What hooks on the source model give: logits to hold an export against, and the canary's answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmrm.api.steer import check_fit, steer
from cmrm.errors import UserError
from cmrm.export.canary import Canary, CanaryPrompt, Expected, are_told_apart
from cmrm.export.request import ExportRequest
from cmrm.models.block_output import block_output
from cmrm.models.families import Attention
from cmrm.models.hook_handles import hooked
from cmrm.models.vlm import VisionLanguageModel, render, render_on_host, send
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.data_uri import to_png_uri
from cmrm.steering.intervention import Intervention
from cmrm.steering.settings import Scope
from cmrm.untrusted.printable import first_line

# Prompts of a canary, and the tokens of an answer.
MOST_PROMPTS = 6
MAX_TOKENS = 32
BATCH = 8
# The least distance between first and second choice, relative to the largest logit, so that other kernels choose alike:
# several times what rounding moves logits by.
LEAST_MARGIN = {torch.float32: 1e-3, torch.float16: 4e-3, torch.bfloat16: 2e-2}
# Prompts whose logits are compared, of each kind: with an image and without.
PROBES = 2


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A prompt with the source's logits at every position, steered by hooks and plain: float32 [tokens, vocabulary].

    `states` are the plain ones at the first block that is steered, float32 [tokens, hidden]; `token_ids` are the
    rendered prompt's.
    """

    prompt: Prompt
    token_ids: tuple[int, ...]
    steered: Tensor
    plain: Tensor
    states: Tensor


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Probes of the source model, and the canary; `dtype` is that of the loaded weights, `attention` its attention."""

    probes: tuple[Probe, ...]
    canary: Canary
    dtype: torch.dtype
    attention: Attention = "sdpa"


def make_reference(
    vlm: VisionLanguageModel,
    request: ExportRequest,
    candidates: Sequence[Prompt],
    *,
    format: str,  # noqa: A002 - the field's name
    acts_at: Scope,
) -> Reference:
    """Run the source model under hooks that act as the export will, and choose the canary's prompts.

    Raises `UserError` if Δ is of another model, if a block is skipped in prompts without an image, or if no candidate
    is answered otherwise when steered.
    """
    acting = request.shift.intervene(acts_at)
    check_fit(vlm, acting)
    if skipped := sorted(vlm.image_only_blocks.intersection(acting.blocks)):
        raise UserError(
            f"export: {request.name} skips blocks {', '.join(map(str, skipped))} in prompts without an image, so what "
            "is added there would be missing from those; choose other blocks (--blocks)."
        )
    # Requests of a canary hold one image or none.
    candidates = [prompt for prompt in candidates if not prompt.media]
    chosen = choose_prompts(vlm, acting, candidates)
    canary = Canary(
        format=format,
        model=request.name,
        revision=request.model.revision,
        dtype=str(vlm.model.dtype).removeprefix("torch."),
        shift=request.shift.digest,
        alpha=request.shift.alpha,
        blocks=request.shift.blocks,
        acts_at=acts_at,
        prompts=chosen,
        repetition_penalty=_read_penalty(request.model.folder),
    )
    return Reference(
        probes=make_probes(vlm, acting, candidates),
        canary=canary,
        dtype=vlm.model.dtype,
        attention=vlm.model.config.get_text_config()._attn_implementation,
    )


def _read_penalty(folder: Path) -> float | None:
    """What a request has to say so that a server decodes greedily; None where a model's generation config is plain."""
    try:
        found = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
        return None if found.get("repetition_penalty") in {None, 1} else 1.0
    except (OSError, ValueError, AttributeError):
        # transformers has loaded the model without it.
        return None


def make_probes(
    vlm: VisionLanguageModel, acting: Intervention, candidates: Sequence[Prompt]
) -> tuple[Probe, ...]:
    """Read the logits of a few candidates of each kind, with an image and without."""
    kinds = ([one for one in candidates if (one.image is not None) is shown] for shown in (True, False))
    return tuple(_probe(vlm, acting, one) for kind in kinds for one in kind[:PROBES])


@torch.inference_mode()
def read_at_block(vlm: VisionLanguageModel, prompt: Prompt, block: int) -> tuple[Tensor, Tensor]:
    """Read a prompt at every position: logits [tokens, vocabulary] and a block's output [tokens, hidden], float32."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        kept.append(block_output(output)[0].float().cpu())

    with hooked([vlm.blocks[block].register_forward_hook(keep)]):
        logits: Tensor = vlm.model(**render(vlm, [prompt]), use_cache=False).logits
    return logits[0].float().cpu(), kept[0]


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
            f"export: of {len(candidates)} prompts, none is answered otherwise by the steered model within "
            f"{MAX_TOKENS} tokens, or none by a margin that holds on another machine, so no canary could tell it from "
            "the plain one. Give another α, or prompts of your own (--canary-prompts)."
        )
    return tuple(mixed[:MOST_PROMPTS])


def list_messages(vlm: VisionLanguageModel, prompt: Prompt) -> list[dict[str, Any]]:
    """Write a prompt as chat messages, the image as a data URL (PNG)."""
    content: Any = prompt.text
    if prompt.image is not None:
        url = to_png_uri(prompt.image)
        content = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": prompt.text},
        ]
    turns = [{"role": "user", "content": content}]
    system = vlm.family.system if prompt.system is None else prompt.system
    return turns if system is None else [{"role": "system", "content": system}, *turns]


def _probe(vlm: VisionLanguageModel, acting: Intervention, prompt: Prompt) -> Probe:
    first = acting.blocks[0]
    plain, states = read_at_block(vlm, prompt, first)
    with steer(vlm, acting):
        steered, _ = read_at_block(vlm, prompt, first)
    ids = render_on_host(vlm, [prompt])["input_ids"][0]
    return Probe(prompt=prompt, token_ids=tuple(ids.tolist()), steered=steered, plain=plain, states=states)


def _split(candidates: Sequence[Prompt]) -> Iterator[list[Prompt]]:
    for shown in (True, False):
        side = [one for one in candidates if (one.image is not None) is shown]
        for start in range(0, len(side), BATCH):
            yield side[start : start + BATCH]


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """An answer's token ids, and at each the distance to the second choice, relative to the largest logit."""

    tokens: list[int]
    margins: list[float]


def _answer_both(
    vlm: VisionLanguageModel, acting: Intervention, prompts: Sequence[Prompt]
) -> list[CanaryPrompt | None]:
    try:
        rendered = render_on_host(vlm, prompts)
    except UserError:
        raise
    except Exception as error:
        # Processors raise nearly any exception for a text that they refuse.
        raise UserError(
            f"export: the processor refuses a canary's question ({first_line(error)}); give others (--canary-prompts)."
        ) from error
    inputs = send(vlm, rendered)
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
    margins = torch.stack([_measure_margins(step.float()) for step in made.logits], dim=1).cpu()
    tokens = made.sequences[:, -margins.shape[1] :].cpu()
    stops = vlm.model.generation_config.eos_token_id
    stopping = {stops} if isinstance(stops, int) else set(stops or ())
    answers = []
    for row, margin in zip(tokens.tolist(), margins.tolist(), strict=True):
        length = next((place + 1 for place, token in enumerate(row) if token in stopping), len(row))
        answers.append(_Answer(tokens=row[:length], margins=margin[:length]))
    return answers


def _measure_margins(logits: Tensor) -> Tensor:
    """The distance between the two largest logits of each row, relative to the largest by amount: float32 [rows]."""
    first, second = logits.topk(2, dim=-1).values.unbind(dim=-1)
    return (first - second) / logits.abs().amax(dim=-1)


def _hold_together(
    vlm: VisionLanguageModel, prompt: Prompt, ids: tuple[int, ...], steered: _Answer, plain: _Answer
) -> CanaryPrompt | None:
    """Make a canary prompt of two answers; None if a server's answer would not tell them apart."""
    for place in range(max(len(steered.tokens), len(plain.tokens))):
        margin = min(*steered.margins[: place + 1], *plain.margins[: place + 1])
        if margin < LEAST_MARGIN[vlm.model.dtype]:
            return None
        if steered.tokens[: place + 1] == plain.tokens[: place + 1]:
            continue
        expected = [_expect(vlm, one, place) for one in (steered, plain)]
        # A letter of several tokens is none before its last one.
        cut = any(not one.text.strip().startswith(one.start.strip()) for one in expected)
        if not cut and are_told_apart(expected[0].start, expected[1].start):
            return CanaryPrompt(
                messages=tuple(list_messages(vlm, prompt)),
                token_ids=ids,
                max_tokens=MAX_TOKENS,
                differ_at=place,
                margin=round(margin, 4),
                steered=expected[0],
                unsteered=expected[1],
            )
    return None


def _expect(vlm: VisionLanguageModel, answer: _Answer, place: int) -> Expected:
    def decode(tokens: list[int]) -> str:
        return str(vlm.processor.tokenizer.decode(tokens, skip_special_tokens=True))

    return Expected(
        tokens=tuple(answer.tokens), text=decode(answer.tokens), start=decode(answer.tokens[: place + 1])
    )
