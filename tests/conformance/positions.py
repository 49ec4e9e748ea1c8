"""States at other positions, against one plain pass a prompt.

How many tokens of a prompt are its image's, and how far the states of batches are from what torch hooks see when
transformers runs one prompt. The image's tokens are those whose embedding is not the one that the model's table has for
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tests.conformance.defences import draw_image

if TYPE_CHECKING:
    from cmrm.models.vlm import VisionLanguageModel
    from cmrm.prompts.conditions import Prompt

QUESTIONS = ("what is it?", "name every colour that you can see, one after the other", "hi")
OF_IMAGE = ("last_image", "mean_image")


def compare_positions(vlm: VisionLanguageModel) -> dict[str, Any]:
    """Read the positions of a tiny model's prompts: the distances by kind of batch and position."""
    from cmrm.decoding.positions import PositionReader
    from cmrm.models.image_tokens import explain_no_image_tokens
    from cmrm.prefix.planner import Prefixes
    from cmrm.prompts.conditions import Prompt
    from cmrm.steering.intervention import Intervention

    of_image = () if explain_no_image_tokens(vlm.family) else OF_IMAGE
    batches = {
        "images of their own": [
            Prompt(text=text, image=draw_image(row)) for row, text in enumerate(QUESTIONS)
        ],
        "one image": [Prompt(text=text, image=draw_image(0)) for text in QUESTIONS],
        "text": [Prompt(text=text) for text in QUESTIONS],
    }
    nothing = Intervention(
        delta=torch.zeros(1, vlm.hidden_size), alpha=1.0, blocks=(0,), scope="every_position"
    )
    apart: dict[str, dict[str, float]] = {}
    for kind, prompts in batches.items():
        positions = ("last", *(of_image if kind != "text" else ()), "first_answer")
        expected = torch.stack([read_naively(vlm, prompt, positions) for prompt in prompts])
        reader = PositionReader(
            vlm, blocks=range(len(vlm.blocks)), positions=positions, prefixes=Prefixes(vlm)
        )
        found = {
            kind: reader.read(prompts),
            f"{kind}, again and in another order": reader.read(prompts[::-1]).flip(0),
            f"{kind}, steered by nothing": reader.read_steered(prompts, nothing),
        }
        for label, states in found.items():
            scale = expected.abs().amax(dim=(0, 2, 3))
            distances = ((states - expected).abs().amax(dim=(0, 2, 3)) / scale).tolist()
            apart[label] = dict(zip(positions, distances, strict=True))
    shown = batches["one image"][0]
    return {
        "apart": apart,
        "image_tokens": int(find_replaced(vlm, shown).sum()) if of_image else 0,
        "tokens": len(render_alone(vlm, shown)["input_ids"][0]),
    }


def read_naively(vlm: VisionLanguageModel, prompt: Prompt, positions: Sequence[str]) -> Tensor:
    """Read one prompt by plain passes of the model: [positions, blocks, hidden]."""
    states: dict[str, Tensor] = {}
    inputs = render_alone(vlm, prompt)
    with listen(vlm) as passes, torch.inference_mode():
        # Two tokens, of which the second pass is fed the first; as if no token ended an answer.
        vlm.model.generate(**inputs, max_new_tokens=2, do_sample=False, eos_token_id=10**6)
    whole, first = (torch.stack([one[block][0] for block in range(len(vlm.blocks))]) for one in passes)
    states["last"], states["first_answer"] = whole[:, -1], first[:, 0]
    if "mean_image" in positions:
        own = find_replaced(vlm, prompt)
        states["mean_image"] = torch.stack([state[own].double().mean(dim=0).float() for state in whole])
        states["last_image"] = whole[:, own][:, -1]
    return torch.stack([states[position] for position in positions])


def render_alone(vlm: VisionLanguageModel, prompt: Prompt) -> Any:
    """Render one prompt, which has no padding."""
    from cmrm.models.vlm import render

    return render(vlm, [prompt])


def find_replaced(vlm: VisionLanguageModel, prompt: Prompt) -> Tensor:
    """Find the tokens of a prompt whose embedding is not that of their id: bool [tokens]."""
    inputs = render_alone(vlm, prompt)
    given: list[Tensor] = []

    def keep(_decoder: Any, _args: Any, kwargs: Any) -> None:
        given.extend([] if kwargs.get("inputs_embeds") is None else [kwargs["inputs_embeds"]])

    def keep_first(_block: Any, args: Any) -> None:
        # Chameleon's decoder embeds tokens and images itself.
        given.extend(args[:1])

    handles = [
        vlm.decoder.register_forward_pre_hook(keep, with_kwargs=True),
        vlm.blocks[0].register_forward_pre_hook(keep_first),
    ]
    with torch.inference_mode():
        vlm.model(**inputs)
        for handle in handles:
            handle.remove()
        table = vlm.model.get_input_embeddings()
        ids = inputs["input_ids"]
        known = table(ids.clamp(max=table.weight.shape[0] - 1))
        if hasattr(vlm.model.config, "vision_soft_tokens_per_image"):
            # Gemma 3n embeds the marks around an image from a table of its own.
            first = vlm.model.config.vision_config.vocab_offset
            own = vlm.model.base_model.embed_vision(input_ids=ids.clamp(min=first))
            known = known.where((ids < first)[..., None], own)
    # Ovis2's marks have embeddings of their own beside an image, the same for all images.
    marks = torch.tensor(getattr(vlm.model.config, "visual_indicator_token_ids", ()))
    replaced = (given[0] - known).abs().amax(dim=-1)[0] > 1e-6
    return replaced & ~torch.isin(inputs["input_ids"][0], marks)


@contextmanager
def listen(vlm: VisionLanguageModel) -> Iterator[list[dict[int, Tensor]]]:
    """Record the outputs of all blocks, pass by pass; of a skipped block, what passes it."""
    passes: list[dict[int, Tensor]] = []

    def begin(_decoder: Any, _args: Any, _kwargs: Any) -> None:
        passes.append({})

    def keep(block: int) -> Callable[[Any, Any, Any], None]:
        def record(_block: Any, _args: Any, output: Any) -> None:
            own = passes[-1]
            states = output[0] if isinstance(output, tuple) else output
            # Gemma 3n's streams, [streams, rows, tokens, hidden]: all of a token are its state.
            own[block] = torch.cat(list(states), dim=-1) if states.dim() == 4 else states
            for skipped in range(block):
                if skipped not in own:
                    own[skipped] = own[skipped - 1]

        return record

    handles = [vlm.decoder.register_forward_pre_hook(begin, with_kwargs=True)]
    handles += [block.register_forward_hook(keep(number)) for number, block in enumerate(vlm.blocks)]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()
