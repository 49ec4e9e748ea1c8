"""Checksummed JSON records, which detect any changed bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from storage.errors import StoreError
from storage.records.hashing import canonical_json, digest


def seal(record: Mapping[str, Any]) -> bytes:
    """Serialize a record as readable JSON with a checksum of its content in the member `seal`.

    Equal numbers are written alike (1.0 as 1). Raises StoreError for values that JSON cannot represent.
    """
    plain = json.loads(canonical_json({name: value for name, value in record.items() if name != "seal"}))
    return _text({**plain, "seal": digest(plain)})


def unseal(data: bytes) -> dict[str, Any]:
    """Read a sealed record and verify its checksum; return it without the seal.

    Raises StoreError unless the bytes are exactly those that `seal` wrote: truncated and edited records are rejected.
    """
    _verify(data)
    record: dict[str, Any] = json.loads(data)
    del record["seal"]
    return record


@lru_cache(maxsize=512)
def _verify(data: bytes) -> None:
    """Raise StoreError unless `seal` wrote these bytes; a plan reads the same manifests many times."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError("it is no JSON: it was cut short or overwritten") from error
    if not isinstance(record, dict) or "seal" not in record:
        raise StoreError("it has no seal: it is no record of this store")
    plain = {name: value for name, value in record.items() if name != "seal"}
    if _text(record) != data or record["seal"] != digest(plain):
        raise StoreError("its seal does not match: it was changed after it was written")


def _text(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode(
        errors="surrogatepass"
    )
