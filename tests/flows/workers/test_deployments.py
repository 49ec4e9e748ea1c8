"""prefect.yaml and the work pools that ship with it, put on a real server by the script that ships too."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker.types import HostConfig
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import PrefectHTTPStatusError
from prefect.flows import load_flow_from_entrypoint
from prefect.workers.base import BaseJobConfiguration

from tests.preloaded import Preloaded

ROOT = Path(__file__).parents[3]
POOLS = {"process": "gpu", "docker": "gpu-docker", "kubernetes": "gpu-kubernetes"}
# What the command and the flows that it deploys import.
PREFECT = (
    "prefect.cli._app",
    "prefect.cli.automation",
    "prefect.cli.deploy",
    "prefect.cli.work_pool",
    "flows.deployed",
    "flows.watch.poll",
)
FLOWS = ("cmrm-run", "cmrm-jobs", "cmrm-watch")


class KubernetesJob(BaseJobConfiguration):
    """What a Kubernetes worker reads of a template; the worker's own package is too large to test with."""

    job_manifest: dict[str, Any]


class DockerJob(BaseJobConfiguration):
    """What a Docker worker reads of a template."""

    image: str
    volumes: list[str]
    container_create_kwargs: dict[str, Any]


@pytest.fixture(scope="module")
def commands(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with Prefect's own command, whose processes need not import Prefect each."""
    folder = tmp_path_factory.mktemp("bin")
    with Preloaded(*PREFECT, environment={"PREFECT_API_URL": prefect_server}) as parent:
        parent.write_program(folder / "prefect", "import sys; from prefect.cli import app; sys.exit(app())")
        yield folder


@pytest.fixture(scope="module")
def client(prefect_server: str, commands: Path) -> Iterator[SyncPrefectClient]:
    """A client of a server on which every pool was set up."""
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": prefect_server}
    for kind in POOLS:
        done = subprocess.run(
            [ROOT / "docs" / "deploy" / "set-up.sh", kind],
            env=environment,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    with get_client(sync_client=True) as opened:
        yield opened


def find(client: SyncPrefectClient, flow: str, kind: str) -> DeploymentResponse:
    return client.read_deployment_by_name(f"{flow}/{POOLS[kind]}")


def render(
    client: SyncPrefectClient, kind: str, configuration: type[BaseJobConfiguration], **changes: Any
) -> Any:
    """A job of a run's deployment as Prefect's own functions make it of the pool's template."""
    pool = client.request("GET", "/work_pools/{name}", path_params={"name": POOLS[kind]}).json()
    variables = {**find(client, "cmrm-run", kind).job_variables, **changes}
    return asyncio.run(configuration.from_template_and_values(pool["base_job_template"], variables))


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("name", FLOWS)
def test_a_deployment_names_a_flow_that_is_there_and_takes_its_parameters(
    client: SyncPrefectClient, kind: str, name: str
) -> None:
    deployment = find(client, name, kind)
    flow = load_flow_from_entrypoint(str(deployment.entrypoint), use_placeholder_flow=False)
    assert flow.name == name
    assert flow.parameters.properties.keys() >= deployment.parameters.keys()
    assert deployment.work_pool_name == POOLS[kind]
    assert deployment.enforce_parameter_schema
    assert not deployment.pull_steps
    assert "cmrm" in deployment.tags
    assert deployment.job_variables["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "60"


def test_a_run_is_started_with_a_spec_and_refused_with_a_parameter_that_is_not_its_own(
    client: SyncPrefectClient,
) -> None:
    deployment = find(client, "cmrm-run", "process")
    given = {"spec": "/srv/cmrm/specs/spec.yaml", "store": "s3://cmrm/store", "limit": 40}
    run = client.create_flow_run_from_deployment(deployment.id, parameters=given)
    assert run.parameters == {"workers": "auto", **given}
    with pytest.raises(PrefectHTTPStatusError, match="spec"):
        client.create_flow_run_from_deployment(deployment.id, parameters={"speck": "a.yaml"})


@pytest.mark.parametrize("kind", POOLS)
def test_the_watch_polls_by_night_and_skips_a_poll_while_one_is_running(
    client: SyncPrefectClient, kind: str
) -> None:
    watch = find(client, "cmrm-watch", kind)
    (schedule,) = watch.schedules
    assert schedule.schedule.cron == "17 3 * * *"
    assert schedule.active
    assert watch.global_concurrency_limit is not None
    assert watch.global_concurrency_limit.limit == 1
    assert watch.concurrency_options is not None
    assert watch.concurrency_options.collision_strategy == "CANCEL_NEW"


def test_a_schedule_makes_flow_runs(client: SyncPrefectClient) -> None:
    watch = find(client, "cmrm-watch", "process")
    # What the server's scheduler does every minute; SQLAlchemy 2.1 breaks it.
    client.request("POST", "/deployments/{id}/schedule", path_params={"id": watch.id}, json={})
    runs = [run for run in client.read_flow_runs() if run.deployment_id == watch.id]
    assert runs
    assert {run.state_name for run in runs} == {"Scheduled"}


def test_a_kubernetes_job_asks_for_gpus_takes_secrets_from_a_secret_and_is_not_root(
    client: SyncPrefectClient,
) -> None:
    job = render(client, "kubernetes", KubernetesJob).job_manifest
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["envFrom"] == [{"secretRef": {"name": "cmrm"}}]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    assert "{{" not in json.dumps(job)
    four = render(client, "kubernetes", KubernetesJob, gpus=4, secret_name="other").job_manifest
    (container,) = four["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 4
    assert container["envFrom"] == [{"secretRef": {"name": "other"}}]


def test_a_docker_container_gets_the_machines_gpus(client: SyncPrefectClient) -> None:
    job = render(client, "docker", DockerJob)
    # Docker's own client makes of it what it sends to the daemon, and refuses a word that it does not know.
    host = HostConfig(version="1.47", binds=job.volumes, **job.container_create_kwargs)
    (devices,) = host["DeviceRequests"]
    assert (devices["Driver"], devices["Count"], devices["Capabilities"]) == ("nvidia", -1, [["gpu"]])
    assert host["CapDrop"] == ["ALL"]
    assert "cmrm-store:/srv/cmrm/store" in host["Binds"]
    picked = render(
        client,
        "docker",
        DockerJob,
        device_requests=[{"driver": "nvidia", "device_ids": ["1"], "capabilities": [["gpu"]]}],
    )
    (devices,) = HostConfig(version="1.47", **picked.container_create_kwargs)["DeviceRequests"]
    assert devices["DeviceIDs"] == ["1"]


@pytest.mark.parametrize(("kind", "variable"), [("kubernetes", "gpus"), ("docker", "device_requests")])
def test_a_variable_that_does_not_fit_the_template_is_refused(
    client: SyncPrefectClient, kind: str, variable: str
) -> None:
    deployment = find(client, "cmrm-jobs", kind)
    with pytest.raises(PrefectHTTPStatusError, match=variable):
        client.create_flow_run_from_deployment(
            deployment.id,
            parameters={"stage": "judge", "jobs": [], "keys": []},
            job_variables={variable: "many"},
        )


def test_what_is_silent_for_three_heartbeats_is_marked_as_crashed_by_one_automation(
    client: SyncPrefectClient,
) -> None:
    found = client.request("POST", "/automations/filter", json={}).json()
    (automation,) = [one for one in found if one["name"] == "cmrm zombies"]
    trigger = automation["trigger"]
    settings = yaml.safe_load((ROOT / "prefect.yaml").read_text())["definitions"]["environment"]
    assert trigger["within"] == 3 * int(settings["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert trigger["posture"] == "Proactive"
    assert trigger["after"] == ["prefect.flow-run.heartbeat"]
    (action,) = automation["actions"]
    assert (action["type"], action["state"]) == ("change-flow-run-state", "CRASHED")
