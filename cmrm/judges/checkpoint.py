"""Load a judge's checkpoint: pinned revision, safetensors only, tokenizer or processor, LoRA adapter, device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
)

from cmrm.errors import ModelChangedError, UserError
from cmrm.judges.controls import Controls, find_controls
from cmrm.models.devices import choose_device, own_weights
from cmrm.models.image_backend import AUTO, pin_image_backend, use_image_backend
from cmrm.models.model_classes import Classes
from cmrm.models.pinning import digest_folder, download_model
from cmrm.models.revision import read_config
from cmrm.models.tokenizer_file import name_broken_tokenizer
from cmrm.models.weight_files import need_safetensors
from cmrm.models.weights import LOAD_ERRORS, load_config, load_weights, trust

# The judge's option that errors about the image backend name.
FIELD = "image_backend"
LOADING_ERRORS = (*LOAD_ERRORS, TypeError)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded model with tokenizer and processor; `processor` is None where it takes no images, and `blind` says why.

    `ends` are the end tokens of a reply. `context` is the context length in tokens, prompt and reply together, None
    where the config does not state it.
    """

    model: Any
    tokenizer: Any
    processor: Any | None
    blind: str
    controls: Controls
    model_type: str
    ends: frozenset[int]
    context: int | None


def load_checkpoint(
    model_id: str,
    revision: str,
    *,
    dtype: str,
    device: str,
    marks: Iterable[str] = (),
    adapter: tuple[str, str] | None = None,
    image_backend: str = AUTO,
) -> Checkpoint:
    """Load a language or vision-language model, and a LoRA adapter if given: safetensors only, no remote code.

    The digest of local files is checked again after loading. `image_backend` is as in `pin_image_backend`. Raises
    `UserError` if it cannot be loaded, `ModelUnavailableError` if it cannot be downloaded, and `ModelChangedError` if
    its files changed.
    """
    folder = _find_folder(model_id, revision)
    need_safetensors(folder, where=repr(model_id))
    config = read_config(model_id, folder)
    sees = "vision_config" in config
    try:
        classes = Classes(
            config=AutoConfig, model=AutoModelForImageTextToText if sees else AutoModelForCausalLM
        )
        settings = load_config(folder, classes, attention=None)
        chosen = choose_device(device, field="device")
        model = load_weights(folder, classes, settings, dtype=dtype, device=chosen, where=repr(model_id))
        if adapter is not None:
            model = _attach(model, _find_folder(*adapter), adapter[0])
        model = model.to(chosen).eval()
        own_weights(model)
        with name_broken_tokenizer(folder):
            reader, blind = _load_reader(folder, sees=sees)
        if not blind:
            backend = pin_image_backend(folder, asked=image_backend, where=model_id, field=FIELD)
            use_image_backend(reader, folder, backend=backend, where=model_id, field=FIELD)
    except UserError:
        raise
    except LOADING_ERRORS as error:
        raise UserError(
            f"{model_id!r} cannot be loaded: {_say(error)}. Check that its folder is complete."
        ) from error
    for one, pinned in ((model_id, revision), *([adapter] if adapter else [])):
        _check_unchanged(one, pinned)
    tokenizer = reader if blind else reader.tokenizer
    ends = _prepare(model, tokenizer)
    return Checkpoint(
        model=model,
        tokenizer=tokenizer,
        processor=None if blind else reader,
        blind=blind,
        controls=find_controls(tokenizer, (*marks, *_placeholders(reader))),
        model_type=str(config.get("model_type", "")),
        ends=ends,
        context=getattr(model.config.get_text_config(), "max_position_embeddings", None),
    )


def _load_reader(folder: Path, *, sees: bool) -> tuple[Any, str]:
    """Load the processor of a vision-language model; or its tokenizer, with the reason why it takes no images."""
    blind = "it is a text-only model"
    if sees:
        try:
            return AutoProcessor.from_pretrained(folder, **trust()), ""
        except ImportError as error:
            # Some image processors need torchvision; text can be judged without.
            blind = _say(error)
    return AutoTokenizer.from_pretrained(folder, **trust()), blind


def _say(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _find_folder(model_id: str, revision: str) -> Path:
    """Return a model's or an adapter's local folder, downloaded if it is not cached."""
    folder = Path(model_id).expanduser()
    if not folder.is_dir():
        if revision.startswith("sha256:"):
            raise UserError(
                f"the folder {model_id!r} is not on this machine; put it on a disk that all workers share, at the "
                "same path, or give a hub id."
            )
        _, folder = download_model(model_id, revision)
    return folder


def _attach(model: Any, folder: Path, adapter_id: str) -> Any:
    config = folder / "adapter_config.json"
    if not config.is_file() or not (folder / "adapter_model.safetensors").is_file():
        raise UserError(
            f"{adapter_id!r} is no LoRA adapter in safetensors: it must hold adapter_config.json and "
            "adapter_model.safetensors, as peft's save_pretrained() writes them."
        )
    try:
        from peft import PeftModel
    except ImportError as error:
        raise UserError(f"an adapter needs peft ({error}): pip install 'cmrm[adapters]'.") from error
    return PeftModel.from_pretrained(model, folder, is_trainable=False, local_files_only=True)


def _check_unchanged(model_id: str, revision: str) -> None:
    if revision.startswith("sha256:") and digest_folder(Path(model_id)) != revision:
        raise ModelChangedError(
            f"the files in {model_id!r} have changed since the run made its cache key; run the command again."
        )


def _prepare(model: Any, tokenizer: Any) -> frozenset[int]:
    """Set left padding and greedy decoding in place of the model's generation config; return its end tokens."""
    own = model.generation_config
    ends = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
    if ends is None:
        raise UserError(
            "neither the model nor its tokenizer names an end token; add eos_token_id to its config."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    model.generation_config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        bos_token_id=own.bos_token_id,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
    )
    return frozenset(torch.as_tensor(ends).reshape(-1).tolist())


def _placeholders(reader: Any) -> list[str]:
    found = (getattr(reader, name, None) for name in ("image_token", "video_token", "fake_image_token"))
    return [token for token in found if isinstance(token, str)]
