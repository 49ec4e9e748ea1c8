"""Find a loaded model's parts by the paths of its family: decoder blocks, backbone, image token, special tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel

from cmrm.errors import UserError
from cmrm.models.families import Family

if TYPE_CHECKING:
    from cmrm.models.vlm import VisionLanguageModel

# Names of config value types in messages.
KINDS = {int: "number", list: "list"}
# Fields that hold a token id, but not those that count tokens (`image_token_length`, `max_tokens`).
_TOKEN_FIELD = re.compile(r"token(?:_id|_index)?$")


def find_blocks(decoder: nn.Module, path: str, *, where: str) -> tuple[nn.Module, ...]:
    """Follow a family's path to the decoder blocks; `UserError` listing the modules there if it leads nowhere."""
    found: Any = decoder
    for name in path.split("."):
        children = dict(found.named_children()) if isinstance(found, nn.Module) else {}
        if name not in children:
            there = ", ".join(children) or "nothing"
            raise UserError(
                f"model.family.blocks: {path!r} leads nowhere in {where!r}: {type(found).__name__} has no {name!r}. "
                f"What is there: {there}."
            )
        found = children[name]
    if not isinstance(found, nn.ModuleList) or len(found) == 0:
        raise UserError(
            f"model.family.blocks: {path!r} of {where!r} is one {type(found).__name__}, not a list of decoder blocks. "
            f"What is in it: {', '.join(name for name, _ in found.named_children()) or 'nothing'}."
        )
    return tuple(found)


def find_backbone(vlm: VisionLanguageModel) -> nn.Module:
    """Find the module that holds the decoder blocks: from tokens to last hidden states, without logits."""
    path = vlm.family.blocks
    while path:
        path = path.rpartition(".")[0]
        found = vlm.decoder.get_submodule(path)
        # A module may lie between that only holds others.
        if type(found).forward is not nn.Module.forward:
            break
    return vlm.decoder.get_submodule(path)


def find_image_only_blocks(config: Any, family: Family, *, blocks: int, where: str) -> frozenset[int]:
    """Find the numbers of the `blocks` that the model skips without an image; `UserError` if the last is one."""
    path = family.image_only_blocks
    if path is None:
        return frozenset()
    numbers = frozenset(_follow(config, path, list, field="image_only_blocks", where=where))
    if not numbers <= frozenset(range(blocks - 1)):
        raise UserError(
            f"model.family.image_only_blocks: {path!r} of {where!r} names blocks {sorted(numbers)} of {blocks}; the "
            "state past a skipped block is captured at a later one, so the last cannot be among them."
        )
    return numbers


def find_image_token(config: Any, family: Family, *, where: str) -> int:
    """Find the id of the image placeholder token; `UserError` if the family's path leads to none."""
    if family.image_token.isdecimal():
        return int(family.image_token)
    return int(_follow(config, family.image_token, int, field="image_token", where=where))


def find_medium_tokens(config: Any, image_token: int) -> frozenset[int]:
    """Find the ids of the placeholder tokens of images, video and sound; models without some name no more."""
    names = [f"{kind}_{field}" for kind in ("video", "audio") for field in ("token_id", "token_index")]
    # Phi-4's audio section has its own.
    owners = (config, getattr(config, "audio_config", None))
    found = (getattr(owner, name, None) for owner in owners for name in names)
    return frozenset({image_token, *(one for one in found if isinstance(one, int))})


def count_streams(config: Any, family: Family) -> int:
    """Count the parallel residual streams that a block gives, 1 for most families."""
    if family.streams is None:
        return 1
    if family.streams.isdecimal():
        return int(family.streams)
    return int(_follow(config, family.streams, int, field="streams", where=family.model_type))


def find_number(config: Any, path: str | None) -> float | None:
    """Find the number to which a path in a config leads, None where there is none."""
    if path is None:
        return None
    found = config
    for name in path.split("."):
        found = getattr(found, name, None)
    return None if found is None else float(found)


def list_module_lists(decoder: nn.Module) -> dict[str, nn.ModuleList]:
    """List the lists of modules inside a decoder by path, which may be its blocks."""
    return {
        path: module
        for path, module in decoder.named_modules()
        if isinstance(module, nn.ModuleList) and path and len(module)
    }


def find_output_layer(model: Any) -> Any:
    """Find the layer that makes logits of hidden states: the model's, or that of the language model inside.

    Raises `UserError` where neither tells one by `get_output_embeddings()`.
    """
    owners = [model, *(one for one in model.children() if isinstance(one, PreTrainedModel))]
    found = next((layer for one in owners if (layer := one.get_output_embeddings()) is not None), None)
    if found is not None:
        return found
    raise UserError(
        f"model.id: {type(model).__name__} names no layer that makes logits (get_output_embeddings), so its answers "
        "cannot be decoded here. Give a model of another type."
    )


def _follow(config: Any, path: str, kind: type, *, field: str, where: str) -> Any:
    found = config
    for name in path.split("."):
        value = getattr(found, name, None)
        if value is None:
            what = f"{type(found).__name__} has no {name!r}"
            break
        found = value
    else:
        if isinstance(found, kind):
            return found
        what = f"there is a {type(found).__name__}"
    known = found.to_dict() if hasattr(found, "to_dict") else {}
    if kind is int:
        names = _list_token_fields(known)
    else:
        names = sorted(key for key, value in known.items() if isinstance(value, kind | dict))
    there = ", ".join(names)
    raise UserError(
        f"model.family.{field}: {path!r} leads to no {KINDS[kind]} in the config of {where!r}: {what}. "
        f"What might be meant: {there or 'nothing'}."
    )


def find_image_fields(config: Any) -> dict[int, str]:
    """Find the fields of a config that hold an image's token: the path of the first by token id."""
    found: dict[int, str] = {}
    for path in _list_token_fields(config.to_dict()):
        if "image" in path:
            found.setdefault(_get(config, path), path)
    return found


def find_config_path(config: Any, value: list[int]) -> str | None:
    """Find the first field of a config, or of its sections, that holds this list; None if none does."""

    def walk(section: Mapping[str, Any], prefix: str) -> Iterator[str]:
        for key, one in section.items():
            if one == value:
                yield f"{prefix}{key}"
            elif isinstance(one, Mapping):
                yield from walk(one, f"{prefix}{key}.")

    return min(walk(config.to_dict(), ""), default=None)


def list_numbers(config: Any) -> dict[str, float]:
    """List the numbers in a config and its sections by path, those of a field that names logits first."""

    def walk(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
        for key, one in section.items():
            if isinstance(one, int | float) and not isinstance(one, bool):
                yield f"{prefix}{key}", float(one)
            elif isinstance(one, Mapping):
                yield from walk(one, f"{prefix}{key}.")

    found = dict(walk(config.to_dict(), ""))
    return {path: found[path] for path in sorted(found, key=lambda path: ("logit" not in path, path))}


def _get(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


def _list_token_fields(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the fields of a config and its sections that hold a token id; those of images come first."""
    names = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            names += _list_token_fields(value, f"{prefix}{key}.")
        elif isinstance(value, int) and not isinstance(value, bool) and _TOKEN_FIELD.search(str(key)):
            names.append(f"{prefix}{key}")
    return sorted(names, key=lambda name: ("image" not in name, "." in name, name))


def list_special_tokens(processor: Any, medium_tokens: Iterable[int]) -> frozenset[str]:
    """List the special tokens that a question must not contain: they would be an image or a change of speaker."""
    tokenizer = processor.tokenizer
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    # Some processors replace a text that is not a token of the tokenizer.
    replaced = (getattr(processor, name, None) for name in ("image_token", "video_token", "audio_token"))
    tokens: Iterable[Any] = (
        *tokenizer.all_special_tokens,
        *added,
        *tokenizer.convert_ids_to_tokens(sorted(medium_tokens)),
        *replaced,
    )
    return frozenset(token for token in tokens if isinstance(token, str) and token)
