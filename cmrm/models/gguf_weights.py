"""Weights of the language model from a GGUF file of its text architecture, as transformers reads it (dequantized).

The folder gives all else: the vision tower, the projector, the config, the tokenizer and the chat template.
torch and transformers are imported with the first such file, since every spec imports this.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cmrm.errors import ModelChangedError, ModelUnavailableError, UserError
from cmrm.models.folder_note import FolderNote
from cmrm.models.load_lock import LOADING
from cmrm.models.optional_packages import need_package

FIELD = "model.backbone_weights.gguf"
ENDING = ".gguf"
# What both the file and the folder's config say of the text architecture, and what weights do not show.
COMPARED = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "rms_norm_eps",
)
# Rows for each token, of which the folder may have more: those of its placeholders.
EMBEDDING, HEAD = "embed_tokens.weight", "output head"
# Factors of a rotary embedding, which transformers takes from the config.
ROPE_FACTORS = "rope_freqs.weight"
# GGUF's own number for a token of ordinary texts.
NORMAL_TOKEN = 1


@dataclass(frozen=True, kw_only=True)
class GgufFile:
    """A GGUF file pinned to the checksum of its content; `id` is what the user wrote."""

    id: str
    revision: str
    path: Path

    @property
    def own_name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @property
    def short_revision(self) -> str:
        """The first 12 digits of the revision."""
        return self.revision.removeprefix("sha256:")[:12]


def find_gguf_revision(given: str) -> str:
    """Compute the checksum of a GGUF file; raises `ModelUnavailableError` if it cannot be read."""
    path = Path(given).expanduser()
    if path.suffix.lower() != ENDING:
        raise UserError(f"{FIELD}: {given!r} is no {ENDING} file; give one of the model's language model.")
    try:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise ModelUnavailableError(
            f"{FIELD}: {given!r} cannot be read ({error.strerror or error}); give a file on this machine, or on a disk "
            "that all workers share."
        ) from None


def resolve_gguf(given: str) -> GgufFile:
    """Resolve a path to an immutable identity; raises as `find_gguf_revision` does."""
    return GgufFile(id=given, revision=find_gguf_revision(given), path=Path(given).expanduser().resolve())


def check_gguf_unchanged(file: GgufFile) -> None:
    """Raise `ModelChangedError` if the file no longer matches its revision."""
    if find_gguf_revision(str(file.path)) != file.revision:
        raise ModelChangedError(
            f"{FIELD}: {file.id!r} changed while it was being used, so its answers would be stored under another "
            "revision. None of them was stored; run the same command again."
        )


def load_backbone(model: Any, tokenizer: Any, file: GgufFile) -> FolderNote:
    """Replace the weights of a loaded model's language model by those of a GGUF file, in place.

    Every weight must be there under the name and in the shape that the model has it; the embedding may have fewer rows,
    and the model keeps its own for the tokens after those. Raises `UserError` if a package is missing, if transformers
    cannot read the file, and for any difference of architecture, vocabulary or weights.
    """
    for package in ("accelerate", "gguf"):
        need_package(package, extra="gguf", field=FIELD)
    import gguf
    from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig

    from cmrm.models.weights import LOAD_ERRORS

    try:
        reader = gguf.GGUFReader(file.path)
        tensors = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
        with _alone(file.path) as place, LOADING:
            config = AutoConfig.from_pretrained(**place)
            _compare_architectures(config, model.config.get_text_config(), tensors, file)
            _compare_tokens(reader, tokenizer, file)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                **place,
                config=config,
                dtype=model.dtype,
                # Packed weights, where the package kernels is installed, would not be the model's own layers.
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
            )
    except UserError:
        raise
    except (*LOAD_ERRORS, NotImplementedError, TypeError, AttributeError, IndexError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise _refuse(file, f"transformers cannot read it: {reason.rstrip('.')}") from error
    text, found = loaded
    for kind in ("missing_keys", "mismatched_keys"):
        if found[kind]:
            raise _refuse(file, f"it lacks {min(map(str, found[kind]))}")
    read = len(list(text.parameters()))
    if read != len(tensors.keys() - {ROPE_FACTORS}):
        raise _refuse(file, f"it holds {len(tensors)} tensors, of which transformers reads {read}")
    rows = _copy_weights(text, model, file)
    kinds = ", ".join(sorted(set(tensors.values())))
    return FolderNote(
        about="backbone weights",
        text=f"{len(tensors)} tensors of {file.path.name} ({kinds}), dequantized to {model.dtype}; {rows} rows of the "
        "embedding",
    )


@contextmanager
def _alone(path: Path) -> Iterator[Mapping[str, Any]]:
    """Show transformers the file and nothing beside it, such as an adapter that it would apply."""
    with TemporaryDirectory() as folder:
        (Path(folder) / f"model{ENDING}").symlink_to(path)
        yield {
            "pretrained_model_name_or_path": folder,
            "gguf_file": f"model{ENDING}",
            "local_files_only": True,
            "trust_remote_code": False,
        }


def _compare_architectures(own: Any, expected: Any, tensors: Mapping[str, str], file: GgufFile) -> None:
    for name in COMPARED:
        there, wanted = getattr(own, name, None), getattr(expected, name, None)
        if there is None or wanted is None or _is_alike(there, wanted):
            continue
        raise _refuse(file, f"its {name} is {there!r}, and the model's config.json has {wanted!r}")
    there, wanted = _find_base(own), _find_base(expected)
    if there is not None and wanted is not None and not _is_alike(there, wanted):
        raise _refuse(file, f"its rope_theta is {there:g}, and the model's config.json has {wanted:g}")
    kind = (getattr(expected, "rope_parameters", None) or {}).get("rope_type", "default")
    if ROPE_FACTORS in tensors and kind == "default":
        raise _refuse(
            file, f"it has {ROPE_FACTORS}, and the model's config.json does not scale its rotary embedding"
        )


def _is_alike(one: Any, other: Any) -> bool:
    """Whether two settings are equal; GGUF keeps numbers in float32."""
    if isinstance(one, float) or isinstance(other, float):
        return math.isclose(float(one), float(other), rel_tol=1e-6)
    return bool(one == other)


def _find_base(config: Any) -> float | None:
    parameters = getattr(config, "rope_parameters", None) or {}
    found = parameters.get("full_attention", parameters).get("rope_theta")
    return None if found is None else float(found)


def _compare_tokens(reader: Any, tokenizer: Any, file: GgufFile) -> None:
    """Refuse a file of another vocabulary: it could have as many rows, each of another token."""
    tokens, kinds = (reader.get_field(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type"))
    if tokens is None:
        raise _refuse(file, "it has no vocabulary to compare with the model's")
    texts = tokens.contents()[: len(tokenizer)]
    ordinary = [NORMAL_TOKEN] * len(texts) if kinds is None else kinds.contents()
    expected = tokenizer.convert_ids_to_tokens(list(range(len(texts))))
    for index, (text, wanted, kind) in enumerate(zip(texts, expected, ordinary, strict=False)):
        if kind == NORMAL_TOKEN and text != wanted:
            raise _refuse(
                file, f"its token {index} is {text!r}, and that of the model's tokenizer {wanted!r}"
            )


def _copy_weights(text: Any, model: Any, file: GgufFile) -> int:
    """Copy the decoder and the output head; returns how many rows of the embedding the file has."""
    import torch

    source, target = (_list_weights(one) for one in (text, model))
    if odd := sorted(source.keys() ^ target.keys()):
        where = "the model does not have" if odd[0] in source else "it lacks"
        raise _refuse(file, f"{where} {odd[0]}")
    for name, weight in source.items():
        own = target[name]
        by_token = name in (EMBEDDING, HEAD)
        if weight.shape[1:] != own.shape[1:] or (
            len(weight) > len(own) if by_token else len(weight) != len(own)
        ):
            raise _refuse(
                file, f"its {name} has shape {list(weight.shape)}, and the model's {list(own.shape)}"
            )
        if own.device.type == "meta":
            raise _refuse(
                file, "the model does not fit into memory, so that part of it is loaded again at each step"
            )
    with torch.no_grad():
        for name, weight in source.items():
            target[name][: len(weight)].copy_(weight)
    # A model that shares embedding and head would have the head in both, whatever the file has.
    if not torch.equal(
        target[EMBEDDING][: len(source[EMBEDDING])], source[EMBEDDING].to(target[EMBEDDING].device)
    ):
        raise _refuse(file, "its embedding and its output head differ, and the model has one matrix for both")
    return len(source[EMBEDDING])


def _list_weights(model: Any) -> dict[str, Any]:
    return {**model.get_decoder().state_dict(), HEAD: model.get_output_embeddings().weight}


def _refuse(file: GgufFile, reason: str) -> UserError:
    return UserError(
        f"{FIELD}: {file.id!r} cannot replace the language model: {reason}. Give a GGUF file of this model's own "
        "language model, of an architecture that transformers reads."
    )
