"""Derive the row of a model type that no table lists, from what the loaded model does with two or three prompts.

Nothing is guessed from module names: blocks are what passes the residual stream of every token, the image token is
where the pixels arrive, and positions are those with which the model itself generates. Whether the row is right is for
the checks of `cmrm.doctor` to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from cmrm.errors import UserError
from cmrm.models.derived_batches import IMAGE_SIZE, QUESTIONS, takes_mixed_batches, takes_tiles_together
from cmrm.models.derived_blocks import find_block_path, find_shown_token, name_image_only, name_image_token
from cmrm.models.derived_logits import find_logit_fields
from cmrm.models.derived_positions import find_positions, heeds_gaps
from cmrm.models.families import EXAMPLE_ROW, PAGE, Family
from cmrm.models.generation_trace import UnderivableError, trace_generation
from cmrm.models.modules import find_medium_tokens
from cmrm.models.token_ids import check_token_ids
from cmrm.models.vlm import VisionLanguageModel, outline_model, prepare_model
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import noise_image


def derive_model(
    model: Any, processor: Any, *, where: str, family: Family | None = None, kept: Iterable[str] = ()
) -> VisionLanguageModel:
    """Wrap a loaded model as `prepare_model` does, with a row that is derived; it is still to be examined.

    What a given `family` says of templates and system lines is kept. Raises `UserError` as `derive_family` does.
    """
    texts = family or Family(model_type=model.config.model_type, blocks="", image_token="")
    outline = outline_model(model, processor, where=where, family=texts)
    # Before prompts are read: a token without a row in the embedding is an error that says nothing.
    check_token_ids(model, processor, image_token_id=outline.image_token_id, where=where)
    return prepare_model(model, processor, where=where, family=derive_family(outline, where=where), kept=kept)


def derive_family(outline: VisionLanguageModel, *, where: str) -> Family:
    """Derive the row of a model that has none; `outline` has its parts without blocks and without an image token.

    What the outline's row says of templates and system lines is kept. `shares` is what the image's place in the prompt
    allows at best, and `batches` is true: whether either works is not tried here.
    Raises `UserError` naming the check that fails, what was found, and what to try.
    """
    try:
        with torch.inference_mode():
            return _derive(outline)
    except UnderivableError as error:
        raise UserError(
            explain_refusal(outline.family.model_type, error.check, str(error), where=where)
        ) from error


def explain_refusal(model_type: str, check: str, found: str, *, where: str) -> str:
    """Explain why a type without a row is refused: the check that failed, what it found, and what to try."""
    return (
        f"model type {model_type!r} of {where} is in no table, and the row that was derived from the model fails the "
        f"check “{check}”: {found.rstrip('.')}. Give a row in the spec, such as model.family: {EXAMPLE_ROW}, and ask "
        f"cmrm doctor about it; see {PAGE}."
    )


def _derive(outline: VisionLanguageModel) -> Family:
    images = [noise_image(size=IMAGE_SIZE, seed=seed) for seed in (0, 1)]
    question = QUESTIONS[0]
    shown, other = (trace_generation(outline, Prompt(text=question, image=image)) for image in images)
    alone = trace_generation(outline, Prompt(text=question))
    path, streams = find_block_path(outline, shown, alone)
    blocks = tuple(outline.decoder.get_submodule(path).children())
    skipped = frozenset(range(len(blocks))) - {one.number for one in alone.calls if one.path == path}
    token, embedded = find_shown_token(outline, path, shown, other, alone)
    vlm = replace(
        outline,
        blocks=blocks,
        image_token_id=token,
        medium_tokens=find_medium_tokens(outline.model.config, token),
        image_only_blocks=skipped,
        family=replace(
            outline.family,
            blocks=path,
            image_token=name_image_token(outline.model.config, token),
            image_only_blocks=name_image_only(outline, skipped),
            streams=None if streams == 1 else str(streams),
            shares="all" if embedded else "text",
        ),
    )
    prompts = [Prompt(text=question, image=images[0]), Prompt(text=question)]
    vlm = replace(vlm, family=find_positions(vlm, prompts, [shown, alone], path))
    vlm = replace(vlm, family=find_logit_fields(vlm, prompts[1]))
    vlm = replace(vlm, family=replace(vlm.family, tiles_together=takes_tiles_together(vlm)))
    return replace(
        vlm.family,
        gaps=embedded and heeds_gaps(vlm, prompts),
        mixed_batches=takes_mixed_batches(vlm, images[0]),
    )
