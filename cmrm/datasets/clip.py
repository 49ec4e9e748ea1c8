"""CLIP embeddings of images and texts, whose dot product is their cosine similarity.

torch and transformers are imported lazily: a run whose pairs are cached needs neither.
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
from cmrm.models.pinning import digest_folder, download_model
from cmrm.models.revision import ModelIdentity, read_config
from cmrm.models.tokenizer_file import name_broken_tokenizer
from cmrm.models.weight_files import need_safetensors

if TYPE_CHECKING:
    from PIL.Image import Image

MODEL_TYPE = "clip"
BATCH_SIZE = 64

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A loaded CLIP model with its tokenizer and image processor."""

    # Any: transformers does not type these for a type checker.
    model: Any
    tokenizer: Any
    image_processor: Any

    @property
    def width(self) -> int:
        """Dimension of the embeddings."""
        return int(self.model.config.projection_dim)


def resolve_clip(model_id: str, *, revision: str = "main") -> ModelIdentity:
    """Resolve a local folder or a hub id to an immutable revision; check that it is a CLIP model with safetensors.

    A local folder's files are hashed; a hub id is resolved to its commit and downloaded if it is not cached.
    """
    folder = Path(model_id).expanduser().resolve()
    try:
        found, weights = (
            (digest_folder(folder), folder) if folder.exists() else download_model(model_id, revision)
        )
        model_type = str(read_config(model_id, weights).get("model_type", ""))
    except UserError as error:
        raise UserError(f"clip.{str(error).removeprefix('model.')}") from None
    if model_type != MODEL_TYPE:
        raise UserError(
            f"clip.id: {model_id!r} is no CLIP: its config.json says model_type {model_type!r}. "
            "Give one such as openai/clip-vit-large-patch14."
        )
    need_safetensors(weights, where=f"clip.id: {model_id!r}")
    return ModelIdentity(id=model_id, revision=found, model_type=model_type, folder=weights)


def load_clip(identity: ModelIdentity, *, device: str = "auto") -> Clip:
    """Load a CLIP model in float32 (safetensors only, no remote code) from a resolved folder.

    Raises `UserError` if transformers cannot load it, the device is missing, or memory runs out (OOM).
    """
    import torch

    # Pillow's image processor, not torchvision's: it gives the same pixels on every machine.
    from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

    from cmrm.models.model_classes import Classes
    from cmrm.models.oom import is_out_of_memory
    from cmrm.models.weights import LOAD_ERRORS, load_config, load_weights, trust

    classes = Classes(config=CLIPConfig, model=CLIPModel)
    try:
        config = load_config(identity.folder, classes, attention=None)
        chosen = torch.device(
            ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        )
        model = load_weights(
            identity.folder,
            classes,
            config,
            dtype=torch.float32,
            device=chosen,
            where=f"clip.id: {identity.id!r}",
        )
        with name_broken_tokenizer(identity.folder):
            tokenizer = AutoTokenizer.from_pretrained(identity.folder, **trust())
        image_processor = CLIPImageProcessorPil.from_pretrained(identity.folder, local_files_only=True)
        model = model.to(chosen).eval()
    except UserError:
        raise
    except (*LOAD_ERRORS, AssertionError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if is_out_of_memory(error):
            raise UserError(
                f"clip.id: {identity.id!r} ran out of memory (OOM) while loading ({reason}). Give another device, a "
                "smaller CLIP model, or free some memory."
            ) from error
        raise UserError(
            f"clip.id: {identity.id!r} cannot be loaded: {reason}. Check that the folder is complete."
        ) from error
    # CLIP pools at the end token: right padding has no effect on the embedding, left padding would.
    tokenizer.padding_side = "right"
    return Clip(model=model, tokenizer=tokenizer, image_processor=image_processor)


def embed_images(clip: Clip, images: Iterable[Image], *, batch_size: int = BATCH_SIZE) -> NDArray[np.float32]:
    """Embed RGB images: float32 [images, width], L2-normalised."""

    def embed(batch: list[Image]) -> Any:
        inputs = clip.image_processor(images=batch, return_tensors="pt").to(clip.model.device)
        return clip.model.get_image_features(pixel_values=inputs["pixel_values"])

    return _embed(clip, images, batch_size, embed)


def embed_texts(clip: Clip, texts: Iterable[str], *, batch_size: int = BATCH_SIZE) -> NDArray[np.float32]:
    """Embed texts: float32 [texts, width], L2-normalised; a text is truncated at the model's 77 tokens."""
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
        for batch in _make_batches(items, batch_size):
            vectors = embed(batch).pooler_output.float()
            rows.append(torch.nn.functional.normalize(vectors, dim=1).cpu().numpy())
    return np.concatenate(rows)


def _make_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch
