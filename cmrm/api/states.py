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
from cmrm.errors import UserError
from cmrm.models.pixel_values import UnreadablePixelsError
from cmrm.models.stimulus import examine_stimulus
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prompts.conditions import CONTROLS, Meaningless, Prompt
from cmrm.steering.blocks import BlockWord, choose_blocks
from cmrm.steering.capture import embed
from cmrm.steering.settings import Method
from cmrm.steering.shift import Shift, make_estimator, serialize_shift, write_stimulus

BATCH_SIZE = 16
# The images of one colour.
BLANKS = ("blank", "blank-black", "blank-mean")


def hidden_states(
    vlm: VisionLanguageModel,
    prompts: Sequence[Prompt | str],
    *,
    blocks: BlockWord | Sequence[int] = "all",
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Read the states of prompts at the output of decoder blocks, at the last prompt token, before the final norm.

    Returns float32 [prompts, blocks, hidden] on the CPU, in the units of the residual stream. A plain text is a prompt
    without an image. States do not depend on `batch_size`, to float tolerance. Inside `steer` they are read after the
    intervention.
    Raises `UserError` for blocks that the model does not have and texts that hold special tokens.

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
    states = torch.empty(len(read), len(chosen), vlm.hidden_size)
    for batch in split_batches(vlm, read, batch_size):
        states[batch] = embed(vlm, [read[place] for place in batch], blocks=chosen).cpu()
    return states


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
    direction, as long as the mean along it). A prompt's own image is left out. `made_from` is kept in the shift and in
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
    text_only = [replace(prompt, image=None, control=None) for prompt in read_prompts(vlm, prompts)]
    name, picture, with_image = show_meaningless(vlm, text_only, image)
    shown = {} if name in CONTROLS else _find_stimulus(vlm, name, picture)
    estimator = make_estimator(method, blocks=chosen, hidden_size=vlm.hidden_size)
    # Without an image, all prompts may share a batch whatever the family, and so they may with one.
    for batch in split_batches(vlm, text_only, batch_size):
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
