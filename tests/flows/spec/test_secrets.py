"""Secrets: refused in a spec, an option and a variable before anything is written, and found nowhere after a run."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
import yaml
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from flows.cli import main
from flows.spec.spec import Spec
from tests.endpoint_server import Act, Asked, Endpoint, Handler, complete

KEY = "sk-canary+/=5d1f/q+Z8=="
SECRET = "EXAMPLE+/=SECRET"
PASSWORD = "EXAMPLE+=SECRET"

ENCODINGS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "percent": lambda key: quote(key, safe=""),
    "JSON": lambda key: json.dumps(key).replace("/", "\\/")[1:-1],
    "hex": lambda key: key.encode().hex(),
    "base64": lambda key: b64encode(key.encode()).decode(),
    "base64 of a header": lambda key: b64encode(f"u:{key}".encode()).decode(),
}


@pytest.fixture
def untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A store that is not there, beside a home of Prefect that is not; neither is there in the end."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "cmrm-store"
    assert [path.name for path in tmp_path.iterdir() if path.name not in {"data", "site-packages"}] == []


def refuse(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """Give a command that costs one line and status 2; the line."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    shown = capfd.readouterr()
    assert exit_.value.code == 2
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1, shown.err
    return shown.err


def edit(spec: Path, **update: object) -> Path:
    spec.write_text(yaml.safe_dump(yaml.safe_load(spec.read_text()) | update))
    return spec


URL = f"s3://EXAMPLEKEY:{SECRET}@bucket/folder"
FIELDS: dict[str, tuple[dict[str, object], str]] = {
    "store": ({"store": URL}, "store"),
    "store with a secret that holds a slash": ({"store": f"s3://EXAMPLEKEY:{SECRET}/bucket"}, "store"),
    "store with settings": ({"store": f"s3://bucket/folder?secret={SECRET}"}, "store"),
    "title": ({"title": f"from {URL}"}, "title"),
    "model id": ({"model": {"id": f"https://me:{SECRET}@host/model"}}, "model.id"),
    "model's adapter": ({"model": {"id": "m", "adapter": {"id": URL}}}, "model.adapter.id"),
    "system line": ({"model": {"id": "m", "system": f"See {URL}."}}, "model.system"),
    "models": ({"model": None, "models": [{"id": "m"}, {"id": URL}]}, "models.1.id"),
    "data set's path": ({"datasets": {"d": {"format": "jsonl", "path": URL}}}, "datasets.d.path"),
    "data set's images": (
        {
            "datasets": {
                "d": {"format": "jsonl", "path": "x", "images": f"https://h/x?X-Amz-Signature={SECRET}"}
            }
        },
        "datasets.d.images",
    ),
    "data set's name": ({"datasets": {URL: {"format": "jsonl", "path": "x"}}}, "datasets"),
    "data set's token": (
        {"datasets": {"d": {"format": "jsonl", "path": "x", "token": SECRET}}},
        "datasets.d.token",
    ),
    "judge's api_key": (
        {"judges": ["match", {"kind": "endpoint", "model": "m", "api_key": SECRET}]},
        "judges.1.api_key",
    ),
    "judge's apiKey": ({"judges": [{"kind": "endpoint", "apiKey": SECRET}]}, "judges.0.apiKey"),
    "judge's address": ({"judges": [{"kind": "endpoint", "base_url": URL}]}, "judges.0.base_url"),
    "judge's body": (
        {"judges": [{"kind": "endpoint", "extra": {"headers": {"Authorization": f"Bearer {SECRET}"}}}]},
        "judges.0.extra.headers.Authorization",
    ),
    "judge's list": ({"judges": [{"kind": "refusal", "phrases": ["no", URL]}]}, "judges.0.phrases.1"),
    "intervention": ({"interventions": [{"name": URL}]}, "interventions.0.name"),
    "unknown field": (
        {"storage_options": {"aws_secret_access_key": SECRET}},
        "storage_options.aws_secret_access_key",
    ),
    "what a variable holds": ({"title": f"asks with {KEY}"}, "title"),
}


@pytest.mark.parametrize("case", FIELDS.values(), ids=FIELDS.keys())
@pytest.mark.parametrize("command", [["run"], ["watch", "--once"]], ids=["run", "watch"])
def test_a_secret_in_a_spec_is_refused_wherever_it_stands_before_anything_is_written(
    small_spec: Path,
    untouched: Path,
    capfd: pytest.CaptureFixture[str],
    case: tuple[dict[str, object], str],
    command: list[str],
) -> None:
    update, field = case
    message = refuse([*command, str(edit(small_spec, **update)), "--store", str(untouched)], capfd)
    assert message.startswith(f"cmrm: {small_spec}: {field}: ")
    assert "environment" in message
    assert_silent(message)


def assert_silent(text: str) -> None:
    for secret in (SECRET, SECRET.partition("/")[0], PASSWORD, KEY):
        assert secret not in text


def test_what_is_no_secret_is_no_mistake(small_spec: Path) -> None:
    spec = yaml.safe_load(small_spec.read_text())
    content = {
        **spec,
        "title": "tokens: see https://example.org/a?b=c and mail me@example.org",
        "store": "s3://bucket/folder",
        "model": {"id": "m", "family": {"blocks": "layers", "image_token": "image_token_id"}},
        "datasets": {
            "token": spec["datasets"]["own"],
            "key": {**spec["datasets"]["own"], "columns": {"id": "key"}},
        },
        "anchors": {"from": {"token": 0.5}},
        "judges": [
            {
                "kind": "endpoint",
                "model": "m",
                "rubric": "strict-refusal",
                "base_url": "https://host/v1",
                "key_variable": "MY_KEY",
                "max_tokens": 4,
                "extra": {"max_completion_tokens": 5, "top_p": 0.5},
            }
        ],
    }
    read = Spec.model_validate(content)
    assert Spec.model_validate(read.model_dump(mode="json", by_alias=True)) == read


@pytest.mark.parametrize(
    "option",
    [
        ("--store", URL),
        ("--server", f"http://me:{PASSWORD}@127.0.0.1:9/api"),
        ("--workers", f"ray:ray://me:{PASSWORD}@host:10001"),
    ],
)
@pytest.mark.parametrize("command", [["run"], ["watch", "--once"]], ids=["run", "watch"])
def test_a_secret_in_an_option_is_refused_before_anything_is_written(
    small_spec: Path,
    untouched: Path,
    capfd: pytest.CaptureFixture[str],
    command: list[str],
    option: tuple[str, str],
) -> None:
    message = refuse([*command, str(small_spec), *option], capfd)
    assert_silent(message)
    assert "URL holds a user" in message or "the URL of the store holds credentials" in message
    assert "leave" in message


@pytest.mark.parametrize("command", [["run"], ["watch", "--once"]], ids=["run", "watch"])
@pytest.mark.usefixtures("untouched")
def test_a_secret_in_a_variable_is_refused_before_anything_is_written(
    small_spec: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("CMRM_WORKERS", f"ray:ray://me:{PASSWORD}@host:10001")
    message = refuse([*command, str(small_spec)], capfd)
    assert "--workers: its URL holds" in message
    assert_silent(message)
    monkeypatch.delenv("CMRM_WORKERS")
    monkeypatch.setenv("CMRM_STORE", URL)
    message = refuse([*command, str(small_spec)], capfd)
    assert "the URL of the store holds credentials" in message
    assert_silent(message)
    monkeypatch.delenv("CMRM_STORE")
    with temporary_settings({PREFECT_API_URL: f"http://me:{PASSWORD}@127.0.0.1:9/api"}):
        message = refuse([*command, str(small_spec)], capfd)
    assert "PREFECT_API_URL: its URL holds" in message
    assert_silent(message)


@pytest.mark.parametrize(
    "given",
    [f"endpoint:model=m,api_key={SECRET}", f"endpoint:api_key=@{SECRET}", f"endpoint:base_url={URL},model=m"],
)
def test_a_secret_in_an_option_of_a_judge_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], given: str
) -> None:
    message = refuse(["judge", "latest", "--judge", given, "--store", str(tmp_path)], capfd)
    assert message.startswith("cmrm: --judge endpoint: ")
    assert_silent(message)


def test_the_value_of_an_unknown_option_is_not_shown(
    small_spec: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    judges = [{"kind": "refusal", "apikee": SECRET}]
    message = refuse(["run", str(edit(small_spec, judges=judges))], capfd)
    assert "judges.0.apikee: judge 'refusal' has no such option" in message
    assert_silent(message)


def echo(*encodings: str, status: int) -> Act:
    """Give the key that came back, in a row of encodings."""

    def act(handler: Handler, asked: Asked) -> None:
        key = asked.headers["authorization"].removeprefix("Bearer ")
        text = "; ".join(f"{name} {ENCODINGS[name](key)}" for name in encodings)
        handler.give(status, complete(text) if status == 200 else json.dumps({"error": {"message": text}}))

    return act


@pytest.fixture
def short_spec(tmp_path: Path, llava_folder: Path, write_short_spec: Callable[..., Path]) -> Path:
    return write_short_spec(tmp_path / "data", llava_folder)


@pytest.fixture
def logged_to_prefect(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of Prefect's database, which then holds the logs of runs too; the key is in the environment."""
    monkeypatch.setenv("CANARY_KEY", KEY)
    with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: True}):
        yield Path(os.environ["PREFECT_HOME"])


@pytest.mark.usefixtures("without_heartbeat")
@pytest.mark.parametrize("status", [200, 401, 503])
def test_a_server_that_echoes_the_key_in_any_encoding_gets_it_nowhere(
    tmp_path: Path,
    short_spec: Path,
    logged_to_prefect: Path,
    capfd: pytest.CaptureFixture[str],
    status: int,
) -> None:
    with Endpoint(echo(*ENCODINGS, status=status)) as endpoint:
        judge = {
            "kind": "endpoint",
            "model": "m",
            "rubric": "strict-refusal",
            "base_url": endpoint.url,
            "key_variable": "CANARY_KEY",
            "retries": 0,
        }
        spec = edit(short_spec, judges=[judge], interventions=[])
        arguments = ["run", str(spec), "--store", str(tmp_path / "store")]
        if status == 200:
            main(arguments)
        else:
            with pytest.raises(SystemExit) as exit_:
                main(arguments)
            assert exit_.value.code == 2
        assert endpoint.asked
        assert {asked.headers["authorization"] for asked in endpoint.asked} == {f"Bearer {KEY}"}
    APILogHandler().flush()
    shown = capfd.readouterr()
    said = f"{shown.out}{shown.err}"
    kept = read_all(tmp_path / "store") + read_all(logged_to_prefect)
    # The words around it are there, so the search is made where it would be.
    marked = "raw [key]; percent [key]; JSON [key]; hex [key]; base64 [key]; base64 of a header"
    assert marked in (kept if status == 200 else said)
    assert marked in kept
    for name, encode in ENCODINGS.items():
        coded = encode(KEY)
        assert coded not in said, name
        assert coded not in kept, name
    # At whatever place in base64 it begins.
    assert "Y2FuYXJ5Ky89NWQx" not in said + kept


def read_all(folder: Path) -> str:
    """The bytes of every file below a folder, and the rows of those whose bytes are compressed."""
    texts = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            texts.append(path.read_bytes().decode("latin-1"))
            if path.suffix == ".parquet":
                texts.append("\n".join(str(row) for row in pq.read_table(path).to_pylist()))
    assert texts
    return "\n".join(texts)
