"""What Docker and Kubernetes read is checked as far as that goes without them (docs/deploy.md says what was run)."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PREFECT = re.search(r"^prefect==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|AUTH|ACCESS_KEY|ROOT_USER|CONNECTION_URL")
# A tag that is one release and stays it.
PINNED = re.compile(r"^[a-z0-9./-]+:[\w.-]*\d[.-]\d[\w.-]*$")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and what follows each, continued lines joined."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def find(kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in MANIFESTS if one["kind"] == kind}


def test_the_image_is_built_on_a_pinned_base_and_runs_as_a_user_without_rights() -> None:
    given = instructions()
    (base,) = (rest.removeprefix("BASE=") for word, rest in given if word == "ARG")
    assert PINNED.match(base), base
    assert {rest.split()[0] for word, rest in given if word == "FROM"} == {"${BASE}"}
    last_stage = given[max(at for at, (word, _) in enumerate(given) if word == "FROM") :]
    (user,) = (rest for word, rest in last_stage if word == "USER")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    # Nothing is run as root after that, and whatever is given is run as it stands.
    assert [word for word, _ in last_stage][-3:] == ["EXPOSE", "ENTRYPOINT", "CMD"]
    assert ("ENTRYPOINT", '["tini", "--"]') in last_stage


def test_the_image_installs_what_was_tested_keeps_no_cache_and_holds_no_secret() -> None:
    installs = [rest for word, rest in instructions() if word == "RUN" and "pip install" in rest]
    assert installs
    for line in installs:
        assert "-c constraints.txt" in line or "--no-deps" in line
    assert "PIP_NO_CACHE_DIR=1" in DOCKERFILE
    for word, rest in instructions():
        if "apt-get install" in rest:
            assert "rm -rf /var/lib/apt/lists/*" in rest
        if word in {"ARG", "ENV"}:
            assert not SECRET.search(rest), rest


def test_what_the_image_copies_is_there_and_nothing_else_is_sent_to_the_builder() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    let_in = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {
        source
        for word, rest in instructions()
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source in let_in, source
    assert let_in - {"docs"} == copied
    assert {"cmrm", "storage", "tasks", "flows"} <= copied


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_is_pinned_watched_and_has_no_password_of_its_own(name: str) -> None:
    service = COMPOSE["services"][name]
    assert PINNED.match(service["image"]), service["image"]
    # What ends by itself has no health to ask for.
    assert ("healthcheck" in service) is (service["restart"] != "no")
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    for variable, value in service["environment"].items():
        if SECRET.search(variable):
            assert re.fullmatch(r"\$\{[A-Z0-9_]+:(-|\?[^}]+)\}", str(value)), f"{name}: {variable}"
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")
    for other, how in service.get("depends_on", {}).items():
        ends = COMPOSE["services"][other]["restart"] == "no"
        assert how["condition"] == ("service_completed_successfully" if ends else "service_healthy")


def test_the_worker_of_compose_has_the_gpus_and_a_store_on_its_s3() -> None:
    worker = COMPOSE["services"]["worker"]
    (devices,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert devices == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert worker["read_only"] is True
    assert worker["environment"]["CMRM_STORE"].startswith("s3://cmrm/")
    assert "store/cmrm" in COMPOSE["services"]["bucket"]["command"][0]


def test_each_password_is_asked_for_by_the_example_and_none_is_given() -> None:
    asked = set(re.findall(r"\$\{(\w+)", (ROOT / "compose.yaml").read_text()))
    example = dict(
        line.split("=", 1)
        for line in (ROOT / ".env.example").read_text().splitlines()
        if line and line[0] != "#"
    )
    assert example.keys() == asked
    assert set(example.values()) == {""}
    assert "/.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_every_file_means_the_same_releases() -> None:
    assert PREFECT is not None
    ours, prefects = f"cmrm:{PROJECT['version']}", f"prefecthq/prefect:{PREFECT[1]}-python3.12"
    images = {service["image"] for service in COMPOSE["services"].values()}
    images |= {
        container["image"]
        for one in find("Deployment").values()
        for container in one["spec"]["template"]["spec"]["containers"]
    }
    pools = (json.loads((DEPLOY / f"{kind}-pool.json").read_text()) for kind in ("docker", "kubernetes"))
    images |= {pool["variables"]["properties"]["image"]["default"] for pool in pools}
    assert {image for image in images if image.startswith("cmrm")} == {ours}
    assert {image for image in images if "prefect" in image} == {prefects, f"{prefects}-kubernetes"}
    assert yaml.safe_load((ROOT / "prefect.yaml").read_text())["prefect-version"] == PREFECT[1]


@pytest.mark.parametrize("name", find("Deployment"))
def test_a_pod_of_the_cluster_is_pinned_watched_and_not_root(name: str) -> None:
    pod = find("Deployment")[name]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in pod["containers"]:
        assert PINNED.match(container["image"])
        assert "livenessProbe" in container
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        for variable in container.get("env", []):
            # The names of the Secret and its key are no secrets.
            if SECRET.search(variable["name"]) and "_SECRET_" not in variable["name"]:
                assert "secretKeyRef" in variable["valueFrom"], variable["name"]


def test_jobs_find_their_account_and_volume_and_the_worker_has_rights_in_its_namespace_alone() -> None:
    variables = json.loads((DEPLOY / "kubernetes-pool.json").read_text())["variables"]["properties"]
    assert variables["service_account_name"]["default"] in find("ServiceAccount")
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for volume in variables["volumes"]["default"]
        if "persistentVolumeClaim" in volume
    }
    assert claims == find("PersistentVolumeClaim").keys()
    assert variables["namespace"]["default"] in find("Namespace")
    assert not find("ClusterRole")
    assert not find("Secret")
    for rule in find("Role")["cmrm-worker"]["rules"]:
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        assert "secrets" not in rule["resources"]
