"""What a person sees of a run in Prefect: names, progress, the table, the report, and why anything ran."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterName,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from flows.run import Result, run_spec
from flows.spec.spec import read_spec
from storage.store import Store
from tests.forked import OWN_SETTINGS, Forker

# The command line, whose report has no figures of states: the first run's has them.
WITHOUT_PANELS = """
import sys
from flows.server.client import quiet_prefect
quiet_prefect()
import tasks.report.stage
from flows.cli import main
tasks.report.stage.find_groups = lambda *_: {}
main(sys.argv[1:])
"""
STAGES = ("ingest", "embed", "shift", "generate", "judge", "report")


@pytest.fixture(scope="module")
def spec(
    tmp_path_factory: pytest.TempPathFactory,
    llava_folder: Path,
    write_short_spec: Callable[[Path, Path], Path],
) -> Path:
    return write_short_spec(tmp_path_factory.mktemp("shown"), llava_folder)


@pytest.fixture(scope="module")
def first(spec: Path, prefect_server: str) -> Result:
    return run(spec, title="Tiny <b>LLaVA</b> {plan.spec} {0, 0.4}")


def run(spec: Path, **changes: Any) -> Result:
    with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: True}):
        return run_spec(read_spec(spec).model_copy(update=changes), store=str(spec.parent / "store"))


def find(client: SyncPrefectClient, run_id: str) -> FlowRun:
    (found,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(like_=run_id)))
    return found


def read_artifacts(result: Result) -> dict[str, Artifact]:
    with get_client(sync_client=True) as client:
        chosen = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[find(client, result.run_id).id]))
        return {str(one.key): one for one in client.read_artifacts(artifact_filter=chosen)}


def test_a_run_is_named_for_people(first: Result) -> None:
    with get_client(sync_client=True) as client:
        name = find(client, first.run_id).name
    assert name.startswith("Tiny <b>LLaVA</b> {plan.spec} {0, 0.4}, llava0@")
    assert name.endswith(first.run_id)


def test_each_stage_leaves_its_progress(first: Result) -> None:
    shown = read_artifacts(first)
    for stage in STAGES:
        assert shown[f"cmrm-stage-{stage}"].type == "progress"
        assert shown[f"cmrm-stage-{stage}"].data == 100.0


def test_the_main_table_and_the_report_are_artifacts_and_names_stay_text(first: Result) -> None:
    shown = read_artifacts(first)
    assert shown["cmrm-main-table"].type == "table"
    assert [row["arm"] for row in json_rows(shown["cmrm-main-table"])] == ["Query", "Image", "CMRM α=1"]
    link = str(shown["cmrm-report"].data)
    assert f"(file://{first.report}" in link or first.report in link
    assert first.summary.headline.split()[0] in str(shown["cmrm-headline"].data)


def json_rows(artifact: Artifact) -> list[dict[str, str]]:
    import json

    rows: list[dict[str, str]] = json.loads(str(artifact.data))
    return rows


def test_the_log_says_what_was_reused_and_why_anything_ran(
    spec: Path, first: Result, forker: Forker, tmp_path: Path
) -> None:
    assert first.summary
    longer = spec.with_name("longer.yaml")
    longer.write_text(spec.read_text().replace("max_new_tokens: 4", "max_new_tokens: 5"))
    # A process of its own, since loggers are set up once in each.
    environment = {"PREFECT_LOGGING_TO_API_ENABLED": "true"}
    store, log = spec.parent / "store", tmp_path / "log"
    arguments = ["run", str(longer), "--store", str(store)]
    run = forker.start(OWN_SETTINGS + WITHOUT_PANELS, arguments, log=log, environment=environment)
    assert run.wait(timeout=300) == 0, log.read_text()
    wanted = (
        r"embed is done: of (\d+) jobs \1 were reused",
        r"generate is done: of \d+ jobs 0 were reused",
        r"generate own image 0–6 runs: new in decoding\.max_new_tokens",
    )
    with get_client(sync_client=True) as client:
        run_id = str(Store.open(store).runs()[-1]["run_id"])
        chosen = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[find(client, run_id).id]))
        lines = [one.message for one in client.read_logs(log_filter=chosen, limit=200)]
    for text in wanted:
        assert any(re.search(text, line) for line in lines), "\n".join(lines)
