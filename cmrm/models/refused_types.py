"""Model types that this method cannot use: why, and what to use instead.

Each reason was seen by running a tiny model of the type or in its source, in transformers 5.23.0. A row of the user's
own, in a spec or from a package, goes before this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

ANY_LISTED = "Give a model of a listed type, such as llava-hf/llava-1.5-7b-hf"
OTHER_READER = (
    "Give a model that reads documents and is asked in text, such as one of type paddleocr_vl or qwen2_5_vl"
)
_ENCODER = (
    "it is an encoder-decoder: the encoder reads the prompt and the image, and the blocks that answer begin at a start "
    "token, so none of them has a state at the prompt's last token"
)
_TALKER = (
    "it is a thinker that writes and a talker that speaks, and transformers does not map the two together to "
    "image-text-to-text"
)
_THINKER = "Save its thinker (model.thinker) and its processor to a folder, and give that"


@dataclass(frozen=True, kw_only=True)
class RefusedType:
    """Why a type cannot be used, as what follows “cannot be used:”, and a sentence with what to use instead."""

    reason: str
    instead: str = ANY_LISTED


def _need_image(what: str, instead: str = ANY_LISTED) -> RefusedType:
    reason = f"{what}, so there is no text prompt against which an image's shift is measured"
    return RefusedType(reason=reason, instead=instead)


REFUSED_TYPES: Mapping[str, RefusedType] = MappingProxyType(
    {
        "blip": _need_image("its model demands pixel_values with every prompt"),
        "blip-2": _need_image("its model demands pixel_values with every prompt"),
        "clip": RefusedType(reason="it compares images with texts, and writes none"),
        "diffusion_gemma": RefusedType(
            reason="it writes blocks of tokens that are denoised together, not one token after the other, and an "
            "intervention is an act on each token's state",
            instead="Give a model of type gemma4",
        ),
        "evolla": RefusedType(reason="what it is shown beside a text is a protein, not an image"),
        "florence2": RefusedType(reason=_ENCODER),
        "fuyu": RefusedType(
            reason="its processor puts the image before a prompt by itself, and marks around the text only where there "
            "is an image, so the two prompts of a pair differ by more than the image"
        ),
        "git": RefusedType(
            reason="its model puts the image before the prompt where no token stands for it, so its blocks give states "
            "of other tokens than the prompt's"
        ),
        "glm5_next": RefusedType(
            reason="its blocks give parallel residual streams in the order [rows, tokens, streams, hidden], which is "
            "not read here",
            instead="Give a model of type glm4v_moe or glm46v",
        ),
        "got_ocr2": _need_image("its processor refuses a prompt without an image", OTHER_READER),
        "idefics": RefusedType(
            reason="between its blocks, gated cross-attention adds the image to the states of text, which no block's "
            "output shows",
            instead="Give a model of type idefics2 or idefics3",
        ),
        "instructblip": _need_image("its model demands pixel_values with every prompt"),
        "instructblipvideo": _need_image("its model demands pixel_values with every prompt"),
        "kosmos-2": _need_image("its generate refuses a prompt without pixel_values"),
        "kosmos-2.5": _need_image("its processor refuses a prompt without an image", OTHER_READER),
        "mistral4": RefusedType(
            reason="transformers' class for it is a language model alone, which takes no image",
            instead="Give a model of type mistral3 around it",
        ),
        "phi4_multimodal": RefusedType(
            reason="transformers does not map it to image-text-to-text, by which models are loaded here"
        ),
        "pi0": RefusedType(
            reason="it answers with a robot's movements (sample_actions) and has no generate",
            instead="Give the vision-language model that it was made from, of type paligemma",
        ),
        "pix2struct": RefusedType(reason=_ENCODER, instead=OTHER_READER),
        "pp_chart2table": _need_image("its processor refuses a prompt without an image", OTHER_READER),
        "pp_formulanet": RefusedType(reason=_ENCODER, instead=OTHER_READER),
        "qwen2_5_omni": RefusedType(
            reason=_TALKER,
            instead=_THINKER,
        ),
        "qwen3_omni_moe": RefusedType(
            reason=_TALKER,
            instead=_THINKER,
        ),
        "shieldgemma2": _need_image(
            "it classifies images, and its processor refuses a prompt without one",
            "Give a model of type gemma3, from which it was made",
        ),
        "siglip": RefusedType(reason="it compares images with texts, and writes none"),
        "siglip2": RefusedType(reason="it compares images with texts, and writes none"),
        "t5gemma2": RefusedType(
            reason=_ENCODER, instead="Give a model of type gemma3, from which it was made"
        ),
        "trocr": RefusedType(reason=_ENCODER, instead=OTHER_READER),
        "udop": RefusedType(reason=_ENCODER, instead=OTHER_READER),
        "vision-encoder-decoder": RefusedType(reason=_ENCODER, instead=OTHER_READER),
    }
)


def explain_refused_type(model_type: str, *, where: str) -> str | None:
    """Explain why models of a type cannot be used, and what can; None of a type that is not refused by name."""
    refused = REFUSED_TYPES.get(model_type)
    if refused is None:
        return None
    return f"model.id: {where!r} is of type {model_type!r}, which cannot be used: {refused.reason}. {refused.instead}."
