"""A run's report.html, as the store has it."""

from __future__ import annotations

from cmrm.errors import UserError
from flows.report.file_names import PAGE
from storage.records.hashing import digest_bytes
from storage.records.layout import report_folder
from storage.records.run_record import report_files
from storage.store import Store


def read_report(store: Store, run_id: str) -> bytes:
    """Read the page of a run's report; raises `UserError` if there is none or it is damaged, or `StoreError`."""
    record = store.read_run(run_id)
    path = f"{report_folder(run_id)}/{PAGE}"
    files = [file for file in report_files(record) if file.path == path]
    if not files:
        raise UserError(f"run {run_id} has no report: its record says {record.get('status')}")
    page = store.read(path)
    if digest_bytes(page) != files[0].sha256:
        raise UserError(
            f"{store.url}/{path} is damaged: give the run's spec again, which writes its report again"
        )
    return page
