"""CLIP: images and texts as vectors whose dot product says how well they go together.

torch and transformers are imported with the first model, since a run that finds its pairs made needs neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cmrm.errors import UserError
from cmrm.pinning import digest_folder, download_model
from cmrm.revision import ModelIdentity, read_config

if TYPE_CHECKING:
    from PIL.Image import Image

MODEL_TYPE = "clip"
BATCH_SIZE = 64

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A loaded CLIP with its tokenizer and its image processor."""

    # Any: transformers gives these no types that a checker can follow.
    model: Any
    tokenizer: Any
    image_processor: Any

    @property
    def width(self) -> int:
        """Length of the vectors."""
        return int(self.model.config.projection_dim)


def resolve_clip(model_id: str, *, revision: str = "main") -> ModelIdentity:
    """Resolve a local folder or a hub id to an immutable identity, checking that it is a CLIP with safetensors.

    A local folder is digested whole; a hub id is resolved to its commit and downloaded if it is not cached.
    """
    folder = Path(model_id).expanduser().resolve()
    try:
        found, place = (
            (digest_folder(folder), folder) if folder.exists() else download_model(model_id, revision)
        )
        model_type = str(read_config(model_id, place).get("model_type", ""))
    except UserError as error:
        raise UserError(f"clip.{str(error).removeprefix('model.')}") from None
    if model_type != MODEL_TYPE:
        raise UserError(
            f"clip.id: {model_id!r} is no CLIP: its config.json says model_type {model_type!r}. "
            "Give one such as openai/clip-vit-large-patch14."
        )
    if not any(place.glob("*.safetensors")):
        raise UserError(
            f"clip.id: {model_id!r} holds no .safetensors weights, and pickled weights are not read. "
            "Convert it once: load it with transformers and save_pretrained() it to a new folder."
        )
    return ModelIdentity(id=model_id, revision=found, model_type=model_type, folder=place)


def load_clip(identity: ModelIdentity, *, device: str = "auto") -> Clip:
    """Load a CLIP in float32 (safetensors only, no remote code) from a resolved folder.

    Raises `UserError` when transformers cannot read the folder or the device is not there.
    """
    import torch
    from safetensors import SafetensorError

    # Pillow's processor, not torchvision's: its pixels are the same on every machine.
    from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

    from cmrm.memory import is_out_of_memory

    try:
        config = CLIPConfig.from_pretrained(identity.folder, local_files_only=True)
        # A config can name an implementation on the hub, whose code would be fetched and run.
        config._attn_implementation = None
        model: Any = CLIPModel.from_pretrained(
            identity.folder, config=config, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(
            identity.folder, trust_remote_code=False, local_files_only=True
        )
        image_processor = CLIPImageProcessorPil.from_pretrained(identity.folder, local_files_only=True)
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        model = model.to(torch.device(chosen)).eval()
    except (
        OSError,
        ValueError,
        KeyError,
        ImportError,
        RuntimeError,
        AssertionError,
        MemoryError,
        SafetensorError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if is_out_of_memory(error):
            raise UserError(
                f"clip.id: {identity.id!r} does not fit into memory ({reason}). Give another device, a smaller CLIP, "
                "or free some memory."
            ) from error
        raise UserError(
            f"clip.id: {identity.id!r} cannot be loaded: {reason}. Check that the folder is complete."
        ) from error
    # The text's vector is read at its end token, so what follows it does not matter; what precedes it would.
    tokenizer.padding_side = "right"
    return Clip(model=model, tokenizer=tokenizer, image_processor=image_processor)


def embed_images(clip: Clip, images: Iterable[Image], *, batch_size: int = BATCH_SIZE) -> NDArray[np.float32]:
    """Embed RGB images: float32 [images, width], each row of length 1."""

    def embed(batch: list[Image]) -> Any:
        inputs = clip.image_processor(images=batch, return_tensors="pt").to(clip.model.device)
        return clip.model.get_image_features(pixel_values=inputs["pixel_values"])

    return _embed(clip, images, batch_size, embed)


def embed_texts(clip: Clip, texts: Iterable[str], *, batch_size: int = BATCH_SIZE) -> NDArray[np.float32]:
    """Embed texts: float32 [texts, width], each row of length 1; what exceeds the model's 77 tokens is cut off."""
    longest = int(clip.model.config.text_config.max_position_embeddings)

    def embed(batch: list[str]) -> Any:
        inputs = clip.tokenizer(
            batch, padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(clip.model.device)
        return clip.model.get_text_features(**inputs)

    return _embed(clip, texts, batch_size, embed)


def _embed(clip: Clip, items: Iterable[Item], batch_size: int, embed: Any) -> NDArray[np.float32]:
    import torch

    rows = [np.empty((0, clip.width), dtype=np.float32)]
    with torch.inference_mode():
        for batch in _cut(items, batch_size):
            vectors = embed(batch).pooler_output.float()
            rows.append(torch.nn.functional.normalize(vectors, dim=1).cpu().numpy())
    return np.concatenate(rows)


def _cut(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch
