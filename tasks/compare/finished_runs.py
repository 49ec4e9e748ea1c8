"""Find finished runs by name, with their verified reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cmrm.errors import UserError
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.core.stage_name import StageName


def find_finished(
    store: Store, name: str, *, prefer: Callable[[Mapping[str, Any]], bool] | None = None
) -> dict[str, Any]:
    """Find a finished run's record, with the keys of its results; `prefer` is as for `Store.find_run`.

    Raises `UserError` or `StoreError`.
    """
    record = store.find_run(name, prefer=prefer)
    run_id = record["run_id"]
    if record.get("status") != "finished":
        raise UserError(
            f"run {run_id} is not finished (its record says {record.get('status')}); wait for it, or give its spec "
            "again, and name the run that finishes"
        )
    lacking = [field for field in ("keys", "models", "spec") if not record.get(field)]
    if lacking:
        raise _old(record, f"record has no {lacking[0]}")
    return record


def find_report(store: Store, record: Mapping[str, Any], *, stages: Sequence[StageName]) -> Manifest:
    """Find a run's report, after verifying the results of these stages; raises `UserError`."""
    # The report is the last of a run's keys.
    report = next(
        (made for key in reversed(record["keys"]) if (made := store.find(StageName.REPORT, key))), None
    )
    if report is None:
        raise _damaged(record, "its report")
    if not {"models", "settings", "used"} <= report.content.keys():
        raise _old(record, "report does not say what it stands on")
    for stage in stages:
        for key in report.content["used"].get(stage, ()):
            if store.find(stage, key) is None:
                raise _damaged(record, f"{stage} {key[:12]}")
    return report


def _old(record: Mapping[str, Any], what: str) -> UserError:
    return UserError(
        f"run {record['run_id']}: its {what}, as in older releases; give its spec again with this release, which "
        "reuses what is there, and name the run that it makes"
    )


def _damaged(record: Mapping[str, Any], what: str) -> UserError:
    return UserError(
        f"run {record['run_id']}: {what} is missing from the store or no longer whole (cmrm store verify says more); "
        "give the run's spec again, which makes it again, and then this command"
    )
