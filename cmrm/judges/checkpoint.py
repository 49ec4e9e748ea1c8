"""The checkpoint of a judge: pinned before anything is keyed, loaded when there is something to judge."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
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
from cmrm.pinning import digest_folder, download_model
from cmrm.placement import choose_device, own_weights
from cmrm.revision import read_config

LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, SafetensorError)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded model with what its prompts need; `processor` is None where it takes no images, and `blind` says why.

    `ends` are the tokens that end a reply. `context` is how many tokens the model can hold, prompt and reply
    together, None where its config does not say.
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
) -> Checkpoint:
    """Load a model of text, or of text and images, and a LoRA adapter if given: safetensors only, no remote code.

    Local files are read after their revision is found, and again looked at afterwards. Raises `UserError` for what
    cannot be loaded, `ModelUnavailableError` for what is not to be had, `ModelChangedError` for changed files.
    """
    folder = _find_weights(model_id, revision)
    config = read_config(model_id, folder)
    sees = "vision_config" in config
    try:
        model = _load_model(folder, sees=sees, dtype=dtype)
        if adapter is not None:
            model = _attach(model, _find_weights(*adapter), adapter[0])
        model = model.to(choose_device(device, field="device")).eval()
        own_weights(model)
        reader, blind = _load_reader(folder, sees=sees)
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


def _load_model(folder: Path, *, sees: bool, dtype: str) -> Any:
    kind: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    # A config can name an implementation on the hub, whose code would be fetched and run.
    config._attn_implementation = None
    return kind.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )


def _load_reader(folder: Path, *, sees: bool) -> tuple[Any, str]:
    """The processor of a model that sees; or a tokenizer, with the reason why there is no more."""
    blind = "it is a model of text alone"
    if sees:
        try:
            return AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True), ""
        except ImportError as error:
            # Some processors of images need torchvision; texts can be judged without.
            blind = _say(error)
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True), blind


def _say(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _find_weights(model_id: str, revision: str) -> Path:
    """The folder of a model on this machine, downloaded if need be, which holds safetensors."""
    folder = Path(model_id).expanduser()
    if not folder.is_dir():
        if revision.startswith("sha256:"):
            raise UserError(
                f"the folder {model_id!r} is not on this machine; put it on a disk that all workers share, at the "
                "same path, or give a hub id."
            )
        _, folder = download_model(model_id, revision)
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{model_id!r} holds no .safetensors weights, and pickled weights are not read. Convert it once: load it "
            "with transformers and save_pretrained() it to a new folder."
        )
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
            f"the files in {model_id!r} are not those any more that the run's key names; give the command again."
        )


def _prepare(model: Any, tokenizer: Any) -> frozenset[int]:
    """Pad on the left, keep nothing of how the authors let their model write but what ends a reply: find that."""
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
