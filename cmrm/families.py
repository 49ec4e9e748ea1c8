"""What differs between model types: one row a type, looked up, never guessed from module names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cmrm.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Family:
    """Where one model type keeps its parts.

    `blocks` is the attribute path from `model.get_decoder()` to the list of decoder blocks;
    `image_token` is the `config.json` field that holds the id of the image placeholder token.
    """

    model_type: str
    blocks: str
    image_token: str


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llava": Family(model_type="llava", blocks="layers", image_token="image_token_id"),
    }
)


def get_family(model_type: str, *, where: str) -> Family:
    """Look up a model type; `where` names the model in the error.

    Raises `UserError` for a type without a row, naming what to add.
    """
    try:
        return FAMILIES[model_type]
    except KeyError:
        raise UserError(
            f"model type {model_type!r} of {where} is not known: known types are {', '.join(sorted(FAMILIES))}. "
            f"To add it, give cmrm/families.py a row: the path from get_decoder() to its decoder blocks "
            f"and the config field of its image token."
        ) from None
