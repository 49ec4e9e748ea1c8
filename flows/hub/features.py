"""Arrow schemas as the features of Hugging Face `datasets`: in the files' metadata, and in the card."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from flows.hub.tables import IMAGE

# Where `datasets` and the hub's viewer look in a Parquet file.
METADATA_KEY = "huggingface"
_VALUES = {"double": "float64", "float": "float32"}


def add_features(schema: pa.Schema) -> pa.Schema:
    """Add the features to a schema's metadata, as `datasets.Features.arrow_schema` does."""
    features = {field.name: _describe(field.type) for field in schema}
    return schema.with_metadata({METADATA_KEY: json.dumps({"info": {"features": features}})})


def list_features(schema: pa.Schema) -> list[dict[str, Any]]:
    """List the features as `dataset_info` in a card's YAML has them."""
    return [{"name": field.name, **_list(field.type)} for field in schema]


def _describe(kind: pa.DataType) -> dict[str, Any]:
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_fixed_size_list(kind):
        return {"feature": _describe(kind.value_type), "length": kind.list_size, "_type": "List"}
    if pa.types.is_list(kind):
        return {"feature": _describe(kind.value_type), "_type": "List"}
    return {"dtype": _name(kind), "_type": "Value"}


def _list(kind: pa.DataType) -> dict[str, Any]:
    if kind == IMAGE:
        return {"dtype": "image"}
    if pa.types.is_fixed_size_list(kind):
        return {"list": _name(kind.value_type), "length": kind.list_size}
    if pa.types.is_list(kind):
        return {"list": _name(kind.value_type)}
    return {"dtype": _name(kind)}


def _name(kind: pa.DataType) -> str:
    return _VALUES.get(str(kind), str(kind))
