"""The record of a run as a file: its path, and its content once that is what a store writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from storage.errors import StoreError
from storage.records.checksummed_json import unseal
from storage.records.layout import check_key, check_run_id
from storage.records.manifest import StoredFile


def run_file(run_id: str) -> str:
    """The path of a run's record; raises StoreError for ids that are not plain."""
    return f"runs/{check_run_id(run_id)}.json"


def report_files(run: Mapping[str, Any]) -> list[StoredFile]:
    """List the files of a run's report, as its record names them."""
    return [StoredFile(**file) for file in run.get("files") or ()]


def read_run_record(path: str, data: bytes) -> dict[str, Any]:
    """Read the record at `path`; raises StoreError if it is damaged, of another run, or not what a store writes."""
    record = unseal(data)
    if run_file(str(record.get("run_id"))) != path:
        raise StoreError("it was written for another run")
    try:
        report_files(record)
        [check_key(key) for key in record.get("keys") or ()]
    except (TypeError, StoreError) as error:
        raise StoreError(f"its keys or files are not what a store writes: {error}") from error
    return record
