"""A run of which something is gone is asked with a warning: an answer that lacks rows says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.cli import main
from storage.records.manifest import manifest_file
from storage.store import Store
from tests.made_up_store import commit_rows, response


def give(*arguments: str, store: Store, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Give a query; its status, and what went to standard output and to standard error."""
    try:
        main(
            [
                "sql",
                "SELECT count(*) AS n FROM responses",
                *arguments,
                "--store",
                store.url,
                "--format",
                "csv",
            ]
        )
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def test_missing_keys_of_a_run_cause_a_warning_and_strict_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store.create(tmp_path / "store")
    keys = [
        commit_rows(store, "responses", [response(f"s{number}", "yes") for number in range(count)])
        for count in range(1, 5)
    ]
    store.write_run("r1", {"status": "finished", "keys": keys})
    for more in ((), ("--run", "latest"), ("--run", "latest", "--strict")):
        assert give(*more, store=store, capsys=capsys) == (0, "n\n10\n", "")
    stage = next(manifest.stage for manifest in store.manifests() if manifest.key == keys[0])
    store.files.remove(manifest_file(stage, keys[0]))
    told = f"cmrm: rows are missing: of the keys of run latest, 1 are missing or damaged ({keys[0][:12]})."
    for more, status in (((), 0), (("--strict",), 1)):
        found = give("--run", "latest", *more, store=store, capsys=capsys)
        assert found[:2] == (status, "n\n9\n")
        assert found[2].startswith(told)
    # A store without a run in mind lacks nothing.
    assert give("--strict", store=store, capsys=capsys) == (0, "n\n9\n", "")
