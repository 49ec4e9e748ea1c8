"""Paths inside a store: valid names of keys, stages, runs and files."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from storage.errors import StoreError

# The store where none is named.
DEFAULT_STORE = "./cmrm-store"

# The file that marks a folder as a store, with its schema version.
MARK = "store.json"

# A data file's name, from `data_file`: key, number if a table has several files, digest of its content.
DATA_NAME = r"[0-9a-f]{64}(?:\.[0-9]+)?\.[0-9a-f]{12}\.[a-z]+"

_UNPLAIN = re.compile(r"[\x00-\x1f\\]")
_KEY = re.compile(r"[0-9a-f]{64}")
_STAGE = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def cache_folder() -> Path:
    """Find the cache folder: copies of remote files, databases of views, the embedded model's data sets, a log.

    CMRM_CACHE, else `cmrm` in the user's own cache.
    """
    own = os.environ.get("CMRM_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cmrm"


def check_key(key: str) -> str:
    """Return a valid key unchanged; raises StoreError unless it is 64 lower-case hex digits."""
    return _check(
        _KEY, key, "key", "a key is 64 lower-case hex digits, as storage.records.hashing.stage_key makes them"
    )


def check_stage(stage: str) -> str:
    """Return a valid stage name unchanged; raises StoreError unless it is a plain lower-case word."""
    return _check(
        _STAGE, stage, "stage", "a stage is a lower-case word of at most 64 letters, digits, _ and -"
    )


def check_run_id(run_id: str) -> str:
    """Return a valid run id unchanged; raises StoreError unless it is safe as a file name."""
    return _check(_RUN_ID, run_id, "run id", "a run id is at most 128 letters, digits, dots, _ and -")


def check_file(path: str) -> str:
    """Return a file's path relative to the store unchanged; raises StoreError if it could leave the store."""
    parts = path.split("/") if isinstance(path, str) else []
    plain = all(part and not part.startswith(".") for part in parts)
    if not parts or not plain or _UNPLAIN.search(path):
        raise StoreError(
            f"{_shown(path)} is no path inside a store: use relative names joined by '/', "
            "none of them empty or starting with a dot"
        )
    return path


def heartbeat_file(run_id: str) -> str:
    """The path of a run's heartbeat; raises StoreError for ids that are not plain."""
    return f"heartbeats/{check_run_id(run_id)}.json"


def report_folder(run_id: str) -> str:
    """The folder of a run's report; raises StoreError for ids that are not plain."""
    return f"reports/{check_run_id(run_id)}"


def data_file(path: str, key: str, sha256: str) -> str:
    """Name a data file by its content's digest: a/<key>.parquet becomes a/<key>.<12 hex digits>.parquet.

    Two processes that commit one key with different bytes therefore never overwrite each other's files.
    Raises StoreError if the path leaves the store, or its last name does not start with the key.
    """
    place = PurePosixPath(check_file(path))
    if place.parts[0] in {"manifests", "runs", "parts", "watches", "heartbeats"} or len(place.parts) < 2:
        raise StoreError(
            f"{_shown(path)} cannot be committed: put it in a folder of its kind, like responses/"
        )
    if not place.name.startswith(key):
        raise StoreError(f"{_shown(path)} cannot be committed: its name must start with its key {key}")
    return str(place.with_name(f"{place.stem}.{sha256[:12]}{place.suffix}"))


def partition(name: str, value: str) -> str:
    """The folder of one partition of a table, such as model=llava-hf%2Fllava-1.5-7b-hf."""
    return f"{name}={quote(value, safe=' @+,')}"


def _check(pattern: re.Pattern[str], value: str, noun: str, rule: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise StoreError(f"{_shown(value)} is no {noun}: {rule}")
    return value


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
