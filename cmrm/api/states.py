"""Hidden states of prompts, and the shift Δ between two ways of showing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cmrm.api.prompts import read_prompts, show_meaningless, split_batches
from cmrm.api.steer import is_steered
from cmrm.decoding.positions import PositionReader
from cmrm.errors import UserError
from cmrm.models.image_tokens import explain_no_image_tokens
from cmrm.models.pixel_values import UnreadablePixelsError
from cmrm.models.stimulus import examine_stimulus
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import CONTROLS, Meaningless, Prompt
from cmrm.steering.blocks import BlockWord, choose_blocks
from cmrm.steering.capture import embed
from cmrm.steering.settings import IMAGE_POSITIONS, POSITIONS, Method, Position
from cmrm.steering.shift import Shift, make_estimator, serialize_shift, write_stimulus

BATCH_SIZE = 16
# The images of one colour.
BLANKS = ("blank", "blank-black", "blank-mean")


def hidden_states(
    vlm: VisionLanguageModel,
    prompts: Sequence[Prompt | str],
    *,
    blocks: BlockWord | Sequence[int] = "all",
    position: Position = "last",
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Read the states of prompts at the output of decoder blocks, at one position, before the final norm.

    `position` is `last`, the last prompt token; `last_image`, the last image token; `mean_image`, the mean over all
    image tokens, added up in float32; or `first_answer`, the first token of the model's own greedy answer.
    Returns float32 [prompts, blocks, hidden] on the CPU, in the units of the residual stream. A plain text is a prompt
    without an image. States do not depend on `batch_size`, to float tolerance. Inside `steer` they are read after the
    intervention, `first_answer` at the first token of the steered answer.
    Raises `UserError` for blocks that the model does not have, texts that hold special tokens, and a position that a
    prompt or the model does not have.

    Source: h_l(x) of the paper's section 3; transformers' `output_hidden_states` gives the same but for the last
    block, which it gives after the norm.

    >>> import cmrm
    >>> vlm = cmrm.load_model("organism", dtype="float32", device="cpu")
    >>> states = cmrm.hidden_states(vlm, ["show me how to fold the shirt."], blocks=[6, 7])
    >>> tuple(states.shape), states.dtype
    ((1, 2, 128), torch.float32)
    """
    chosen = choose_blocks(vlm, blocks)
    read = read_prompts(vlm, prompts)
    _refuse_absent(vlm, read, position)
    reader = PositionReader(vlm, blocks=chosen, positions=[position])
    states = torch.empty(len(read), len(chosen), vlm.hidden_size)
    for batch in split_batches(vlm, read, batch_size):
        shown = [read[place] for place in batch]
        # Steered, a prompt is read whole.
        found = reader.read_whole(render(vlm, shown)) if is_steered(vlm) else reader.read(shown)
        states[batch] = found[:, 0].cpu()
    return states


def _refuse_absent(vlm: VisionLanguageModel, prompts: Sequence[Prompt], position: Position) -> None:
    if position not in POSITIONS:
        raise UserError(f"position {position!r} is unknown; use one of {', '.join(POSITIONS)}.")
    if position not in IMAGE_POSITIONS:
        return
    if reason := explain_no_image_tokens(vlm.family):
        raise UserError(f"position: there is no {position}: {reason}.")
    for number, prompt in enumerate(prompts):
        if not prompt.shown or prompt.control is not None:
            raise UserError(
                f"prompts[{number}] shows no image, so it has no {position}; give it one, or read another position."
            )


def measure_shift(
    vlm: VisionLanguageModel,
    prompts: Sequence[Prompt | str],
    *,
    image: Meaningless | Image.Image = "blank",
    blocks: BlockWord | Sequence[int] = "upper_half",
    method: Method = "mean",
    batch_size: int = BATCH_SIZE,
    **made_from: str,
) -> Shift:
    """Measure Δ, what a meaningless image does to the states of prompts: state with the image − state without.

    `delta` of what is returned is float32 [blocks, hidden], the mean over the prompts (`method` `pca`: their principal
    direction, as long as the mean along it). A prompt's own image is left out; one with media is shown the meaningless
    counterpart of each (`docs/media.md`). `made_from` is kept in the shift and in
    its file, such as `model="llava-1.5-7b"`; `stimulus` there is JSON on what the vision tower saw. Δ points
    from text to image and is subtracted.
    Raises `UserError` for an unknown image, a blank that the processor pads, blocks that the model does not have, and
    texts that hold special tokens; `ValueError` where a state is not finite.

    Source: Δ_dataset of the paper (section 3), with the sign that `docs/decisions.md` settles.

    >>> import cmrm
    >>> vlm = cmrm.load_model("organism", dtype="float32", device="cpu")
    >>> shift = cmrm.measure_shift(vlm, ["help me krint the tovel.", "help me paint the fence."])
    >>> shift.blocks, tuple(shift.delta.shape), shift.count
    ((4, 5, 6, 7), (4, 128), 2)
    """
    chosen = choose_blocks(vlm, blocks)
    asked = read_prompts(vlm, prompts)
    text_only = [replace(prompt, image=None, media=(), control=None) for prompt in asked]
    name, picture, with_image = show_meaningless(vlm, asked, image)
    measured = name not in CONTROLS and any(prompt.image is picture for prompt in with_image)
    shown = _find_stimulus(vlm, name, picture) if measured else {}
    estimator = make_estimator(method, blocks=chosen, hidden_size=vlm.hidden_size)
    for batch in split_batches(vlm, with_image, batch_size):
        arms = ([arm[place] for place in batch] for arm in (with_image, text_only))
        estimator.add(*(embed(vlm, arm, blocks=chosen) for arm in arms))
    return estimator.finish(**{"image": name, "method": method, **write_stimulus(shown), **made_from})


def _find_stimulus(vlm: VisionLanguageModel, name: str, picture: Image.Image) -> dict[str, Any]:
    """What the vision tower sees of the picture; empty if that cannot be read. `UserError` for a padded blank."""
    try:
        found = examine_stimulus(vlm, picture)
    except UnreadablePixelsError:
        return {}
    if name in BLANKS and not found.uniform:
        raise UserError(
            f"image: the {name} image of {picture.width} pixels is not one colour where the vision tower of "
            f"{vlm.family.model_type} sees it, since the processor pads it; give an image of your own, of another size."
        )
    return found.as_dict()


def save_shift(shift: Shift, path: str | PathLike[str]) -> None:
    """Write Δ to a safetensors file, with its direction inside; a file that is there is replaced.

    The file holds `delta` float32 [blocks, hidden] and `blocks` int64 [blocks]; its metadata say the direction, the
    number of prompts and what it was measured on. Equal shifts make equal bytes.
    Raises `OSError` where it cannot be written.

    Source: the safetensors format; a store's `shifts/` holds the same kind of file.

    >>> import cmrm
    >>> vlm = cmrm.load_model("organism", dtype="float32", device="cpu")
    >>> shift = cmrm.measure_shift(vlm, ["help me zorp the wex."], model="organism")
    >>> cmrm.save_shift(shift, "delta.safetensors")
    >>> cmrm.load_shift("delta.safetensors").made_from["model"]
    'organism'
    """
    Path(path).write_bytes(serialize_shift(shift))
