"""`cmrm deploy` on a real Prefect server: what it makes, changes, refuses and removes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import VariableCreate
from prefect.exceptions import ObjectNotFound
from prefect.flows import load_flow_from_entrypoint
from prefect.states import Cancelled

from flows.cli import main

ROOT = Path(__file__).parents[3]
POOL = "deploy-here"


@pytest.fixture
def client(prefect_server: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as opened:
        yield opened


@pytest.fixture
def deploy(
    small_spec: Path, prefect_server: str, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """`deploy(*options)`: the lines that it prints for the small spec."""

    def run(*options: str) -> list[str]:
        capsys.readouterr()
        main(["deploy", str(small_spec), *options])
        return capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def refuse(deploy: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`refuse(*options)`: what it says on standard error, having ended with status 2."""

    def run(*options: str) -> str:
        with pytest.raises(SystemExit) as ended:
            deploy(*options)
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return " ".join(said.split())

    return run


def read_fields(client: SyncPrefectClient, name: str) -> dict[str, Any]:
    return client.read_deployment_by_name(name).model_dump(mode="json")


def test_a_deployment_is_made_once_then_changed_where_the_options_differ_then_removed(
    client: SyncPrefectClient,
    deploy: Callable[..., list[str]],
    refuse: Callable[..., str],
    small_spec: Path,
    tmp_path: Path,
) -> None:
    options = ["--pool", POOL, "--name", "small", "--cron", "17 3 * * *", "--store", str(tmp_path / "store")]
    planned = deploy(*options, "--create-pool", "process", "--dry-run")
    assert planned[0] == "cmrm-run/small: would be created."
    with pytest.raises(ObjectNotFound):
        client.read_deployment_by_name("cmrm-run/small")
    with pytest.raises(ObjectNotFound):
        client.read_work_pool(POOL)

    said = deploy(*options, "--create-pool", "process")
    assert said[:2] == [f"Work pool {POOL}: created, of type process.", "cmrm-run/small: created."]
    assert said[2:-2] == planned[1:]
    assert said[-2:] == [
        f"No worker of the pool is online. Start one: prefect worker start --pool {POOL}",
        "Start a run now: prefect deployment run cmrm-run/small",
    ]
    made = read_fields(client, "cmrm-run/small")
    assert made["parameters"] == {
        "spec": str(small_spec),
        "store": str(tmp_path / "store"),
        "workers": "auto",
    }
    flow = load_flow_from_entrypoint(made["entrypoint"], use_placeholder_flow=False)
    assert flow.name == "cmrm-run"
    assert flow.parameters.properties.keys() >= made["parameters"].keys()
    assert made["work_pool_name"] == POOL
    assert made["tags"] == ["cmrm"]
    assert made["enforce_parameter_schema"] is True
    shipped = yaml.safe_load((ROOT / "prefect.yaml").read_text())["definitions"]["environment"]
    assert made["job_variables"] == {"env": shipped}
    (schedule,) = made["schedules"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("17 3 * * *", "UTC")

    assert deploy(*options)[0] == "cmrm-run/small: unchanged."
    assert read_fields(client, "cmrm-run/small")["updated"] == made["updated"]

    said = refuse(*options, "--job-variable", "imagee=x")
    assert f"--job-variable: the work pool {POOL} has none named 'imagee'; it has" in said
    said = refuse(*options, "--job-variable", 'stream_output={"a": 1}')
    assert "deploy: the Prefect server refuses cmrm-run/small: Error" in said
    assert "{'a': 1} is not of type" in said
    assert read_fields(client, "cmrm-run/small")["updated"] == made["updated"]

    # A schedule that was paused on the server stays paused when its time changes; one made by hand stays.
    client.update_deployment_schedule(made["id"], schedule["id"], active=False)
    options[5] = "0 4 * * *"
    said = deploy(*options, "--tag", "nightly", "--limit", "3", "--job-variable", 'env={"A": "b"}')
    assert said[:5] == [
        "cmrm-run/small: updated.",
        "  limit: 3",
        "  schedule: 17 3 * * * (UTC) → 0 4 * * * (UTC)",
        "  tags: cmrm → cmrm, nightly",
        "  job variable env.A: b",
    ]
    changed = read_fields(client, "cmrm-run/small")
    assert changed["id"] == made["id"]
    (schedule,) = changed["schedules"]
    assert (schedule["schedule"]["cron"], schedule["active"]) == ("0 4 * * *", False)
    assert changed["parameters"]["limit"] == 3
    assert changed["job_variables"] == {"env": {**shipped, "A": "b"}}

    said = deploy("--pool", POOL, "--name", "small", "--store", str(tmp_path / "store"))
    assert "  schedule: 0 4 * * * (UTC) → none" in said
    assert read_fields(client, "cmrm-run/small")["schedules"] == []

    assert deploy("--name", "small", "--remove", "--dry-run") == [
        "Would be removed: deployment cmrm-run/small"
    ]
    assert deploy("--name", "small", "--remove") == ["Removed: deployment cmrm-run/small"]
    assert deploy("--name", "small", "--remove") == ["cmrm-run/small: there is no such deployment."]
    with pytest.raises(ObjectNotFound):
        client.read_deployment_by_name("cmrm-run/small")


def test_a_watch_tells_its_blocks_by_one_automation_that_follows_the_options(
    client: SyncPrefectClient, deploy: Callable[..., list[str]], refuse: Callable[..., str]
) -> None:
    pager = Webhook(url="https://pager.example.com/secret-path").save("pager", overwrite=True)
    other = Webhook(url="https://other.example.com").save("other", overwrite=True)
    options = ["--watch", "--pool", POOL, "--create-pool", "process", "--name", "small"]

    def find() -> list[dict[str, Any]]:
        found = client.request("POST", "/automations/filter", json={}).json()
        return [one for one in found if one["name"] == "cmrm regression: cmrm-watch/small"]

    said = deploy(*options, "--notify", "webhook/pager")
    assert "  notifies: webhook/pager" in said
    assert not [line for line in said if "secret-path" in line]
    made = read_fields(client, "cmrm-watch/small")
    assert made["global_concurrency_limit"]["limit"] == 1
    assert made["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    (automation,) = find()
    trigger = automation["trigger"]
    assert (trigger["posture"], trigger["expect"], trigger["threshold"]) == (
        "Reactive",
        ["cmrm.safety.regressed"],
        1,
    )
    assert trigger["match"] == {"prefect.resource.id": "cmrm.model.*"}
    assert trigger["match_related"] == {
        "prefect.resource.id": f"prefect.deployment.{made['id']}",
        "prefect.resource.role": "deployment",
    }
    assert [(one["type"], one["block_document_id"]) for one in automation["actions"]] == [
        ("call-webhook", str(pager))
    ]

    assert deploy(*options, "--notify", "webhook/pager")[0] == "cmrm-watch/small: unchanged."
    # What an operator switched off stays off.
    client.pause_automation(automation["id"])
    said = deploy(*options, "--notify", "webhook/pager", "--notify", "webhook/other")
    assert said[:2] == [
        "cmrm-watch/small: updated.",
        "  notifies: webhook/pager → webhook/pager, webhook/other",
    ]
    (changed,) = find()
    assert (changed["id"], changed["enabled"]) == (automation["id"], False)
    assert [one["block_document_id"] for one in changed["actions"]] == [str(pager), str(other)]

    said = refuse(*options, "--notify", "webhook/nobody")
    assert "there is no block webhook/nobody" in said
    assert "webhook/pager" in said
    assert find() == [changed]

    assert "  notifies: webhook/pager, webhook/other → none" in deploy(*options)
    assert find() == []
    deploy(*options, "--notify", "webhook/pager")
    assert deploy(*options, "--remove") == [
        "Removed: automation cmrm regression: cmrm-watch/small",
        "Removed: deployment cmrm-watch/small",
    ]
    assert find() == []


def test_an_embedded_spec_needs_no_file_and_a_variable_may_be_set_later(
    client: SyncPrefectClient,
    deploy: Callable[..., list[str]],
    small_spec: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    options = [
        "--pool",
        POOL,
        "--create-pool",
        "process",
        "--name",
        "a whole",
        "--embed",
        "--model",
        "models",
    ]
    place = "{{ prefect.variables.later_store }}"
    said = deploy(*options, "--store", place)
    assert "The Prefect variable later_store is not set yet: prefect variable set later_store VALUE" in said
    assert said[-1] == "Start a run now: prefect deployment run 'cmrm-run/a whole'"
    parameters = read_fields(client, "cmrm-run/a whole")["parameters"]
    assert parameters["store"] == place
    # A worker has a working folder of its own.
    assert parameters["model"] == str(tmp_path / "models")
    written = yaml.safe_load(small_spec.read_text())
    content = parameters["spec"]
    assert content["model"]["id"] == written["model"]["id"]
    assert content["datasets"]["own"]["path"] == str(small_spec.parent / "own.jsonl")
    # The server takes the content for a flow run too, by the flow's own schema.
    deployment = client.read_deployment_by_name("cmrm-run/a whole")
    run = client.create_flow_run_from_deployment(deployment.id, parameters={"limit": 2})
    client.set_flow_run_state(run.id, Cancelled(), force=True)
    assert run.parameters == {**parameters, "limit": 2}
    client.create_variable(VariableCreate(name="later_store", value="s3://bucket/cmrm"))
    assert not [line for line in deploy(*options, "--store", place) if "later_store" in line]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--pool", "nowhere"], ["no work pool nowhere", "prefect work-pool create nowhere --type process"]),
        ([], ["--pool: name the work pool"]),
        (["--pool", "p", "--cron", "17 3 * *"], ["--cron: '17 3 * *' is none", "17 3 * * *"]),
        (["--pool", "p", "--cron", "1 1 * * *", "--timezone", "Mars"], ["--timezone: 'Mars' is none"]),
        (["--pool", "p", "--timezone", "Europe/Berlin"], ["--timezone: it is that of a schedule"]),
        (["--pool", "p", "--notify", "webhook/x"], ["--notify: only a watch", "--watch"]),
        (["--pool", "p", "--watch", "--limit", "2"], ["--limit: a watch takes no limit"]),
        (["--pool", "p", "--name", "a/b"], ["--name: 'a/b' is no name"]),
        (["--pool", "p", "--job-variable", "image"], ["--job-variable: 'image' has no name", "NAME=VALUE"]),
        (
            ["--pool", "p", "--job-variable", 'env={"HF_TOKEN": "hf_abcdefgh"}'],
            ["HF_TOKEN", "Prefect's database"],
        ),
        (["--pool", "p", "--store", "s3://user:word@host/x"], ["holds a user, a password"]),
        (["--pool", "p", "--model", "nowhere@"], ["model: 'nowhere@' has no revision"]),
        (["--pool", "p", "--workers", "two"], ["--workers: 'two' is none of auto"]),
        (
            ["--pool", "p", "--store", "{{ prefect.variables.two words }}"],
            ["--store: '{{ prefect.variables.two words }}' holds a placeholder", "prefect.variables.NAME"],
        ),
        (["--pool", "p", "--model", "{{ prefect.blocks.string.x }}"], ["--model: ", "holds a placeholder"]),
    ],
)
def test_what_cannot_be_deployed_costs_a_line_and_makes_nothing(
    client: SyncPrefectClient, refuse: Callable[..., str], options: list[str], parts: list[str]
) -> None:
    before = client.request("POST", "/deployments/count", json={}).json()
    said = refuse(*options)
    for part in parts:
        assert part in said
    assert "hf_abcdefgh" not in said
    assert "word@" not in said
    assert client.request("POST", "/deployments/count", json={}).json() == before
