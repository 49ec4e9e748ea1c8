"""A stage's progress artifact: created with the first progress that is sent, of the flow run that began the stage."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact
from prefect.runtime import flow_run

from flows.server import progress
from flows.server.progress import ARTIFACT_SECONDS, PAUSE_SECONDS, StageArtifact

pytestmark = pytest.mark.usefixtures("prefect_server", "without_heartbeat")


@pytest.fixture
def clock() -> list[float]:
    """The time, in seconds, as the only member of a list."""
    return [0.0]


def read_artifacts() -> list[Artifact]:
    """Those of the flow run that is under way, whatever thread asks."""
    with get_client(sync_client=True) as client:
        own = ArtifactFilterFlowRunId(any_=[UUID(flow_run.get_id())])
        return client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=own))


def run_in_a_flow(body: Callable[[], Any]) -> None:
    flow(name="progress", persist_result=False)(body)()


def test_a_short_stage_is_created_as_it_ends(clock: list[float]) -> None:
    def body() -> None:
        stage = StageArtifact("embed", lambda: clock[0])
        stage.update(40.0)
        assert read_artifacts() == []
        stage.finish(100.0)
        (shown,) = read_artifacts()
        assert (shown.key, shown.type, shown.data) == ("cmrm-stage-embed", "progress", 100.0)

    run_in_a_flow(body)


def test_a_long_stages_progress_comes_from_any_thread_and_stays_one_artifact(clock: list[float]) -> None:
    def body() -> None:
        stage = StageArtifact("embed", lambda: clock[0])
        with ThreadPoolExecutor(1) as pool:
            clock[0] = ARTIFACT_SECONDS
            pool.submit(stage.update, 40.0).result()
            (begun,) = read_artifacts()
            assert (begun.data, begun.task_run_id) == (40.0, None)
            pool.submit(stage.update, 60.0).result()
            (unchanged,) = read_artifacts()
            assert unchanged.data == 40.0
        stage.finish(100.0)
        (ended,) = read_artifacts()
        assert (ended.id, ended.data) == (begun.id, 100.0)

    run_in_a_flow(body)


def test_a_server_that_is_away_is_asked_again_after_a_pause(
    clock: list[float], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = progress.create_progress_artifact

    def fail(*_: object, **__: object) -> None:
        raise httpx.ConnectError("refused")

    def body() -> None:
        stage = StageArtifact("embed", lambda: clock[0])
        clock[0] = ARTIFACT_SECONDS
        monkeypatch.setattr(progress, "create_progress_artifact", fail)
        stage.update(40.0)
        monkeypatch.setattr(progress, "create_progress_artifact", create)
        clock[0] += PAUSE_SECONDS
        stage.update(50.0)
        assert read_artifacts() == []
        clock[0] += ARTIFACT_SECONDS
        stage.update(60.0)
        (shown,) = read_artifacts()
        assert shown.data == 60.0

    with caplog.at_level(logging.WARNING, logger="cmrm.flows"):
        run_in_a_flow(body)
    assert "Prefect shows no progress of embed for now: refused" in caplog.text
