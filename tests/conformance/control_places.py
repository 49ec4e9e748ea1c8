"""What models make of control prompts.

The right positions are those at which the model's own rotary embedding reads the tokens of a prompt with its image,
given what the processor makes and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from tests.conformance.odd_images import IMAGE_SIZE

QUESTIONS = ("What is it?", "Say how to fold a shirt.")
NEW_TOKENS = 6


def examine_controls(vlm: Any) -> dict[str, Any]:
    """The positions of a tiny model's own image prompts, and those of controls."""
    from cmrm.errors import UserError
    from cmrm.models.vlm import render
    from cmrm.prompts.conditions import CONTROLS, Prompt
    from cmrm.prompts.meaningless_images import blank_image

    image = blank_image(size=IMAGE_SIZE, color=(255, 255, 255))
    prompts = [Prompt(text=question, image=image) for question in QUESTIONS]
    found: dict[str, Any] = {"image_token": vlm.image_token_id, "refused": None}
    try:
        render(vlm, [replace(prompts[0], control="gap")])
    except UserError as error:
        return found | {"refused": str(error)}
    found["image"] = [_read_own(vlm, prompt) for prompt in prompts]
    found["text"] = [_read_own(vlm, replace(prompt, image=None)) for prompt in prompts]
    for control in CONTROLS:
        found[control] = _read_control(vlm, [replace(prompt, control=control) for prompt in prompts])
    return found


def _read_own(vlm: Any, prompt: Any) -> dict[str, Any]:
    """Tokens of one prompt, and the positions that the model gives them by itself; several axes where it has them."""
    from cmrm.models.vlm import render

    inputs = render(vlm, [prompt])
    with _listen(vlm) as heard, torch.inference_mode():
        vlm.model.base_model(**inputs, use_cache=False)
    return {
        "ids": inputs["input_ids"][0].tolist(),
        "positions": _drop_batch(heard[0], 0),
        "types": _read_types(inputs, 0),
    }


def _read_types(inputs: Any, row: int) -> dict[str, list[int]]:
    """Tensors of tokens besides their ids, such as token types: those of one row, without padding."""
    mask = inputs["attention_mask"].bool()
    return {
        name: value[row][mask[row]].tolist()
        for name, value in inputs.items()
        if value.shape == mask.shape and name not in ("input_ids", "attention_mask", "position_ids")
    }


def _read_control(vlm: Any, prompts: list[Any]) -> dict[str, Any]:
    """Tokens and positions of a padded batch as the backbone gets them, states and answers, together and alone."""
    from cmrm.decoding.api import generate
    from cmrm.models.vlm import render
    from cmrm.prefix.planner import Prefixes
    from cmrm.prefix.renderer import Renderer
    from cmrm.steering.capture import embed

    if len(prompts) > 1 and not vlm.family.batches:
        singly = [_read_control(vlm, [prompt]) for prompt in prompts]
        lists = {
            name: [item for one in singly for item in one[name]]
            for name in ("rows", "answers", "own_answers")
        }
        return lists | {"difference": max(one["difference"] for one in singly)}
    blocks = range(len(vlm.blocks))
    rendered = Renderer(vlm).render(prompts)
    mask = rendered.inputs["attention_mask"].bool()
    with _listen(vlm) as heard:
        together = embed(vlm, prompts, blocks=blocks, prefixes=Prefixes(vlm), rendered=rendered.inputs)
    alone = torch.cat([embed(vlm, [prompt], blocks=blocks) for prompt in prompts])
    answers = generate(vlm, prompts, max_new_tokens=NEW_TOKENS, prefixes=Prefixes(vlm))
    with torch.inference_mode():
        own = [_answer(vlm, render(vlm, [prompt])) for prompt in prompts]
    return {
        "rows": [
            {
                "ids": rendered.inputs["input_ids"][row][mask[row]].tolist(),
                "positions": _drop_batch(heard[0][..., mask[row]], row),
                "types": _read_types(rendered.inputs, row),
            }
            for row in range(len(prompts))
        ],
        "difference": float((together - alone).abs().max()),
        "answers": [one.text for one in answers.answers],
        "own_answers": own,
    }


def _answer(vlm: Any, inputs: Any) -> str:
    """Greedy decoding without a cache, position by position."""
    ids, positions = inputs["input_ids"], inputs["position_ids"]
    tokenizer = vlm.processor.tokenizer
    fed = {name: value for name, value in inputs.items() if name not in ("input_ids", "position_ids")}
    start = ids.shape[1]
    for _ in range(NEW_TOKENS):
        extra = {
            name: torch.nn.functional.pad(
                value, (0, ids.shape[1] - start), value=int(name == "attention_mask")
            )
            for name, value in fed.items()
        }
        logits = vlm.model(input_ids=ids, position_ids=positions, use_cache=False, **extra).logits[0, -1]
        token = int(logits.argmax())
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
        positions = torch.cat([positions, positions[:, -1:] + 1], dim=1)
        if token == tokenizer.eos_token_id:
            break
    return tokenizer.decode(ids[0, start:], skip_special_tokens=True).strip()


@contextmanager
def _listen(vlm: Any) -> Iterator[list[torch.Tensor]]:
    """Record the positions that the backbone's rotary embedding is called with."""
    heard: list[torch.Tensor] = []

    def listen(_module: Any, arguments: Any, named: Any) -> None:
        heard.append(named["position_ids"] if "position_ids" in named else arguments[1])

    rotary: Callable[..., Any] = next(
        module for path, module in vlm.decoder.named_modules() if path.endswith("rotary_emb")
    )
    handle = rotary.register_forward_pre_hook(listen, with_kwargs=True)
    try:
        yield heard
    finally:
        handle.remove()


def _drop_batch(positions: torch.Tensor, row: int) -> list[list[int]]:
    """Positions of one row by axis; of one axis where the model has no more. A batch of one may stand for all."""
    axes = positions if positions.dim() == 3 else positions[None]
    return [one[row if len(one) > 1 else 0].tolist() for one in axes]
