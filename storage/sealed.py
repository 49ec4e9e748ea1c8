"""Records that notice when a single bit of them has changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from storage.errors import StoreError
from storage.identity import canonical_json, digest


def seal(record: Mapping[str, Any]) -> bytes:
    """Write a record as readable JSON with the digest of its own content in the member `seal`.

    Numbers that are equal are written alike (1.0 as 1). Raises StoreError for what JSON has not.
    """
    plain = json.loads(canonical_json({name: value for name, value in record.items() if name != "seal"}))
    return _text({**plain, "seal": digest(plain)})


def unseal(data: bytes) -> dict[str, Any]:
    """Read a sealed record, without its seal.

    Raises StoreError unless the bytes are exactly those that `seal` wrote: truncated, edited and half-written
    records are all refused.
    """
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError("it is no JSON: it was cut short or overwritten") from error
    if not isinstance(record, dict) or "seal" not in record:
        raise StoreError("it has no seal: it is no record of this store")
    plain = {name: value for name, value in record.items() if name != "seal"}
    if _text(record) != data or record["seal"] != digest(plain):
        raise StoreError("its seal does not match: it was changed after it was written")
    return plain


def _text(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode(
        errors="surrogatepass"
    )
