"""Video, sound, and images beside them, against transformers alone.

The answers to compare with come from a loop that has no cache and edits states by hand;
the media's tokens are those whose embedding is not the one that the model's table has for them; positions are those at
which the model's own rotary embedding reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from cmrm.models.vlm import VisionLanguageModel
    from cmrm.prompts.conditions import Prompt

QUESTION = "what is it?"
STEPS = 5
BLOCK = 1
SIDE = 32
# The first of each mechanism: frames with a token of their own or with that of images, pooled or timed; sound.
MEDIA = {
    "gemma4": "sound",
    "glm4v": "video",
    "llava_onevision": "video",
    "qwen2_5_vl": "mixed",
    "qwen3_vl": "video",
    "smolvlm": "video",
}
# For which all forms are tried, as for a type without a row: one with images beside a video, and one without.
SEARCHED = {"qwen2_5_vl", "smolvlm"}


def compare_media(vlm: VisionLanguageModel) -> dict[str, Any] | None:
    """Show a tiny model a video or sound, with an image before it where that goes: what is found by both sides.

    None of a model that is not among `MEDIA`.
    """
    from cmrm.doctor.fixture import ModelFixture
    from cmrm.doctor.media import find_forms
    from cmrm.models.image_tokens import find_image_tokens
    from cmrm.models.vlm import render
    from cmrm.prompts.conditions import Prompt
    from cmrm.prompts.counterparts import make_counterparts
    from cmrm.prompts.meaningless_images import MeaninglessImage
    from cmrm.prompts.media import Video
    from tests.conformance.positions import find_replaced

    form = MEDIA.get(vlm.family.model_type)
    if form is None:
        return None
    frames = tuple(_draw(row) for row in range(4))
    video = Video(frames=frames, fps=4.0)
    shown = {"video": (video,), "mixed": (_draw(9), video), "sound": (_draw(9), _play())}[form]
    prompt = Prompt(text=QUESTION, media=shown)
    blank = replace(prompt, media=make_counterparts(shown, MeaninglessImage(kind="blank", size=1)))
    slow = Video(frames=frames, fps=2.0)
    slower = replace(prompt, media=tuple(slow if one is video else one for one in shown))
    unlisted = replace(vlm, family=replace(vlm.family, media=()))
    inputs = render(vlm, [prompt])
    ids = inputs["input_ids"][0].tolist()
    own = vlm.model.generation_config.suppress_tokens
    vlm.model.generation_config.suppress_tokens = sorted(vlm.medium_tokens)
    found = {
        "ids": ids,
        "blank_ids": render(vlm, [blank])["input_ids"][0].tolist(),
        "slower_ids": render(vlm, [slower])["input_ids"][0].tolist(),
        "marked": find_image_tokens(vlm, inputs)[0].tolist(),
        "replaced": find_replaced(vlm, prompt).tolist(),
        "answers": {scope: _answer_both(vlm, prompt, scope) for scope in ("every_step", "all")},
        "text": _locate(vlm, replace(prompt, media=())),
        "shown": _locate(vlm, prompt),
        "controls": {one: _locate(vlm, replace(prompt, control=one)) for one in ("gap", "marks", "filler")},
        "long": _show_long(vlm, prompt),
        "forms": find_forms(ModelFixture(vlm=unlisted, seed=0, image_size=SIDE))
        if vlm.family.model_type in SEARCHED
        else None,
    }
    vlm.model.generation_config.suppress_tokens = own
    return found


def _draw(seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return Image.fromarray(values)


def _play() -> Any:
    from cmrm.prompts.media import Audio

    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(4_000) / 8_000)
    return Audio(samples=tone.astype(np.float32), rate=8_000)


def _answer_both(vlm: VisionLanguageModel, prompt: Prompt, scope: Any) -> list[str]:
    """The steered answer of cmrm, and that of a loop without a cache."""
    from cmrm.decoding.api import generate
    from cmrm.steering.intervention import Intervention

    generator = torch.Generator().manual_seed(5)
    delta = torch.randn(1, vlm.hidden_size, generator=generator)
    own = Intervention(delta=delta, alpha=1.0, blocks=(BLOCK,), scope=scope)
    (answer,) = generate(vlm, [prompt], max_new_tokens=STEPS, intervention=own).answers
    return [answer.text, _answer_naively(vlm, prompt, delta[0], scope)]


@torch.inference_mode()
def _answer_naively(vlm: VisionLanguageModel, prompt: Prompt, delta: Tensor, scope: str) -> str:
    from cmrm.models.vlm import render
    from tests.conformance.positions import find_replaced

    inputs = dict(render(vlm, [prompt]))
    ids, start = inputs.pop("input_ids"), len(inputs["attention_mask"][0])
    left_out = set(find_replaced(vlm, prompt).nonzero().flatten().tolist())
    tokenizer = vlm.processor.tokenizer

    def subtract(_block: Any, _args: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        places = range(hidden.shape[1])
        chosen = [
            one for one in places if (one >= start - 1 if scope == "every_step" else one not in left_out)
        ]
        hidden[:, chosen] -= delta
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = vlm.blocks[BLOCK].register_forward_hook(subtract)
    try:
        for _ in range(STEPS):
            grown = {
                name: torch.nn.functional.pad(
                    value, (0, ids.shape[1] - start), value=int(name == "attention_mask")
                )
                if isinstance(value, Tensor) and value.shape == (1, start)
                else value
                for name, value in inputs.items()
            }
            logits = vlm.model(input_ids=ids, **grown, use_cache=False).logits[0, -1]
            logits[[one for one in vlm.medium_tokens if one < len(logits)]] = -torch.inf
            ids = torch.cat([ids, logits.argmax().reshape(1, 1)], dim=1)
            if int(ids[0, -1]) == tokenizer.eos_token_id:
                break
    finally:
        handle.remove()
    return str(tokenizer.decode(ids[0, start:], skip_special_tokens=True).strip())


def _locate(vlm: VisionLanguageModel, prompt: Prompt) -> dict[str, Any]:
    """Tokens of a prompt, and the first axis of the positions at which the model reads them."""
    from cmrm.models.forward_arguments import count_positions
    from cmrm.models.vlm import render

    inputs = render(vlm, [prompt])
    with _listen(vlm) as heard, torch.inference_mode():
        vlm.model.base_model(**inputs, **count_positions(vlm, inputs), use_cache=False)
    positions = heard[0][0] if heard[0].dim() == 3 else heard[0]
    return {"ids": inputs["input_ids"][0].tolist(), "positions": positions[0].tolist()}


@contextmanager
def _listen(vlm: VisionLanguageModel) -> Iterator[list[Tensor]]:
    heard: list[Tensor] = []

    def listen(_module: Any, arguments: Any, named: Any) -> None:
        heard.append(named["position_ids"] if "position_ids" in named else arguments[1])

    rotary: Any = next(module for path, module in vlm.decoder.named_modules() if path.endswith("rotary_emb"))
    handle = rotary.register_forward_pre_hook(listen, with_kwargs=True)
    try:
        yield heard
    finally:
        handle.remove()


def _show_long(vlm: VisionLanguageModel, prompt: Prompt) -> dict[str, str]:
    """Why a video of as many frames, one a quarter of an hour, is rejected, by row; nothing if it is not."""
    from cmrm.prefix.renderer import Renderer
    from cmrm.prompts.media import Video

    *before, video = prompt.media
    if not isinstance(video, Video):
        return {}
    slow = replace(prompt, media=(*before, Video(frames=video.frames, fps=1 / 900)))
    return {str(row): reason for row, reason in Renderer(vlm).render([slow]).refused.items()}
