"""What a watch tells Prefect holds no secret, whatever the words of a verdict come from."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from urllib.parse import quote

import pytest

from cmrm.statistics.regression import Thresholds
from flows.watch.events import send_verdict
from flows.watch.history import PastRun
from tasks.compare.result import ComparedRun, RunComparison
from tests.flows.events import read_events

KEY = "sk-canary+/=5d1f/q+Z8=="


def make_run(run_id: str, fingerprint: str) -> PastRun:
    model = {"label": "tiny", "id": "./tiny", "revision": fingerprint, "fingerprint": fingerprint}
    return PastRun(run_id=run_id, stamp="2026-01-01T00:00:00", models=(model,), watched={})


def test_the_event_of_a_run_that_could_not_be_judged_holds_no_secret(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY_KEY", KEY)
    words = (KEY, quote(KEY, safe=""), b64encode(f"u:{KEY}".encode()).decode(), KEY.encode().hex())
    run = ComparedRun(run_id="a", created_at="2026-01-01T00:00:00", models=())
    found = RunComparison(
        before=run,
        after=run,
        thresholds=Thresholds(),
        regressed=False,
        judged=False,
        verdict=f"Not judged: every verdict is a parse error ({'; '.join(words)}).",
        changes=(),
        categories=(),
        unpaired=(),
        shifts=(),
        flips=(),
        notes=(),
    )
    (told,) = send_verdict(make_run("a", "1"), make_run("b", "2"), found, store=str(tmp_path))
    (event,) = read_events(prefect_server, tmp_path, count=1)
    assert event["id"] == str(told)
    assert event["event"] == "cmrm.safety.unjudged"
    assert event["payload"]["verdict"].startswith(
        "Not judged: every verdict is a parse error ([secret]; [secret]; "
    )
    assert not [word for word in words if word in json.dumps(event)]
