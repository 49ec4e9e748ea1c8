"""What S3 refuses, loses, delays or cuts short costs one line with what, where and the fix, and is never believed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest

from storage.backends.s3 import ATTEMPTS, READ_SECONDS, ROUNDS, connection_options
from storage.errors import StoreError
from storage.records.hashing import stage_key
from storage.sql.database import connect
from storage.store import Store
from tests.s3 import BUCKET, SECRET, Answer, Asked, S3Server, forget_connections

KEY = stage_key("report", {"n": 1})
FILES = {f"reports/{KEY}.md": b"# one\n"}
Forward = Callable[[], Answer]


def try_all(url: str, message: str) -> None:
    """Each use of the store is refused with the message, on one line."""
    store = Store.open(url)
    for use in (
        lambda: store.find("report", KEY),
        lambda: store.commit("report", KEY, FILES),
        lambda: list(store.manifests()),
        store.runs,
        lambda: store.read(f"reports/{KEY}.md"),
        lambda: store.files.remove(f"reports/{KEY}.md"),
        lambda: next(store.files.read_many([f"reports/{KEY}.md"])),
        lambda: connect(url),
    ):
        with pytest.raises(StoreError, match=message) as caught:
            use()
        assert url in str(caught.value)
        assert "\n" not in str(caught.value)
        assert SECRET not in str(caught.value)


def set_keys(patch: pytest.MonkeyPatch, key_id: str | None, secret: str | None) -> None:
    for name, value in (("AWS_ACCESS_KEY_ID", key_id), ("AWS_SECRET_ACCESS_KEY", secret)):
        patch.delenv(name, raising=False) if value is None else patch.setenv(name, value)
    forget_connections()


@pytest.fixture
def connections() -> Iterator[None]:
    """No connection of this test is another's."""
    forget_connections()
    yield
    forget_connections()


@pytest.fixture
def guarded(s3: str, s3_server: S3Server, connections: None) -> Iterator[dict[str, str]]:
    """The server checks who asks: a user's keys, who may do all in the store and nothing elsewhere."""
    place = f"arn:aws:s3:::{s3.removeprefix('s3://')}"
    listing = {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{BUCKET}"}
    objects = {"Effect": "Allow", "Action": "s3:*", "Resource": f"{place}/*"}
    policy = {"Version": "2012-10-17", "Statement": [listing, objects]}
    iam = boto3.client("iam", endpoint_url=s3_server.url)
    user = f"user-{place[-20:-6]}"
    iam.create_user(UserName=user)
    iam.put_user_policy(UserName=user, PolicyName="store", PolicyDocument=json.dumps(policy))
    keys = iam.create_access_key(UserName=user)["AccessKey"]
    iam.close()
    s3_server.check_signatures(after="0")
    yield {"key_id": keys["AccessKeyId"], "secret": keys["SecretAccessKey"]}
    s3_server.check_signatures(after="inf")


def test_only_the_right_keys_open_a_store_and_only_where_they_may(s3, guarded, monkeypatch):
    set_keys(monkeypatch, **guarded)
    store = Store.open(s3)
    manifest = store.commit("report", KEY, FILES)
    assert store.find("report", KEY) == manifest
    with pytest.raises(StoreError, match=r"cannot write .*may list the bucket and read, write and delete"):
        Store.open(f"s3://{BUCKET}/elsewhere").commit("report", KEY, FILES)
    with pytest.raises(StoreError, match=r"cannot .*(Forbidden|Access Denied)\. To go on"):
        Store.open(f"s3://{BUCKET}/elsewhere").find("report", KEY)

    set_keys(monkeypatch, guarded["key_id"], SECRET)
    try_all(s3, r"To go on, check AWS_ACCESS_KEY_ID")
    with pytest.raises(
        StoreError, match=r"cannot list .*signature .*does not match.*check AWS_ACCESS_KEY_ID"
    ):
        list(Store.open(s3).manifests())
    set_keys(monkeypatch, "AKIAUNKNOWN000000000", SECRET)
    with pytest.raises(StoreError, match=r"does not exist in our records.*check AWS_ACCESS_KEY_ID"):
        list(Store.open(s3).manifests())


def test_no_credentials_and_no_bucket_are_named(s3, connections, monkeypatch):
    try_all(
        "s3://no-such-bucket/store", r"bucket does not exist\. To go on, make the bucket, or correct its name"
    )
    set_keys(monkeypatch, None, None)
    try_all(s3, r"Unable to locate credentials\. To go on, set the credentials in the environment")
    set_keys(monkeypatch, "AKIAONLY", None)
    try_all(s3, r"Partial credentials found.*To go on, check AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    forget_connections()
    try_all(s3, r"profile \(nobody\) could not be found. To go on, correct AWS_PROFILE")


def test_a_server_that_is_gone_is_given_up_and_found_again(s3, proxy):
    store = Store.open(s3)
    manifest = store.commit("report", KEY, FILES)
    proxy.stop()
    for use in (lambda: store.find("report", KEY), lambda: store.commit("report", KEY, FILES)):
        with pytest.raises(
            StoreError, match=r"ould not connect.*check that the server is up.*AWS_ENDPOINT_URL"
        ):
            use()
    proxy.resume()
    assert store.find("report", KEY) == manifest


def test_a_server_that_is_busy_now_and_then_is_asked_again(s3, proxy, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    refusals = [(503, "SlowDown"), (500, "InternalError"), (502, ""), (503, "ServiceUnavailable")]
    answered: list[str] = []

    def refuse_first(asked: Asked, forward: Forward) -> Answer:
        if asked.method not in answered and refusals:
            answered.append(asked.method)
            return refusal(*refusals.pop())
        answered.clear()
        return forward()

    proxy.trick = refuse_first
    store = Store.open(s3)
    manifest = store.commit("report", KEY, FILES)
    assert store.find("report", KEY) == manifest
    assert not refusals


def test_a_server_that_stays_busy_is_given_up(s3, proxy, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    for status, code, fix in (
        (503, "SlowDown", "wait until"),
        (500, "InternalError", "check that the server"),
    ):
        proxy.trick = lambda _asked, _forward, status=status, code=code: refusal(status, code)
        proxy.seen.clear()
        with pytest.raises(StoreError, match=rf"cannot list .*\. To go on, {fix}"):
            list(Store.open(s3).manifests())
        assert 2 <= len(proxy.seen) <= 2 * ROUNDS


def refusal(status: int, code: str) -> Answer:
    body = (
        f"<Error><Code>{code}</Code><Message>made up:\n {code}\x07</Message></Error>" if code else "<html>bad"
    )
    return Answer(status, {"Content-Type": "application/xml"}, body.encode())


def test_a_server_that_hangs_is_given_up(s3, proxy, monkeypatch):
    # The time limit itself is a number of storage.backends.s3; here it is short, so that the test is.
    monkeypatch.setattr("storage.backends.s3.READ_SECONDS", 0.1)
    store = Store.open(s3)
    manifest = store.commit("report", KEY, FILES)

    def hang(_asked: Asked, _forward: Forward) -> None:
        time.sleep(3)

    proxy.trick = hang
    for use in (lambda: store.read("reports/x"), lambda: store.commit("report", KEY, FILES), store.runs):
        proxy.seen.clear()
        with pytest.raises(StoreError, match=r"imeout.*To go on, check that the server is up"):
            use()
        assert len(proxy.seen) <= ROUNDS**2
    proxy.trick = lambda _, forward: forward()
    assert store.find("report", KEY) == manifest
    assert READ_SECONDS * ATTEMPTS * ROUNDS**2 <= 300


def test_what_botocore_is_told_in_the_environment_comes_first(monkeypatch):
    for name in ("AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"):
        monkeypatch.delenv(name, raising=False)
    assert connection_options()["config_kwargs"]["retries"] == {"mode": "standard", "total_max_attempts": 5}
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "9")
    monkeypatch.setenv("AWS_RETRY_MODE", "adaptive")
    assert connection_options()["config_kwargs"]["retries"] == {}


@pytest.mark.parametrize("lie", [True, False], ids=["with its length corrected", "with the connection cut"])
@pytest.mark.parametrize("size", [5_000, 3_000_000])
def test_a_body_that_ends_early_is_not_taken_for_the_file(s3, proxy, caplog, size, lie):
    store = Store.open(s3)
    manifest = store.commit("report", KEY, {f"reports/{KEY}.bin": bytes(range(250)) * (size // 250)})
    path = manifest.path("reports")

    def cut(asked: Asked, forward: Forward) -> Answer:
        answer = forward()
        if asked.method != "GET" or not asked.path.endswith(".bin"):
            return answer
        headers = {name: value for name, value in answer.headers.items() if "checksum" not in name}
        short = answer.body[: len(answer.body) // 2]
        return Answer(answer.status, headers, short, len(short) if lie else len(answer.body))

    proxy.trick = cut
    if lie:
        assert store.find("report", KEY) is None
        assert f"counts as not there: {path} " in caplog.text
    else:
        with pytest.raises(StoreError, match=f"cannot read {s3}/{path}: "):
            store.find("report", KEY)
    proxy.trick = lambda _, forward: forward()
    assert store.find("report", KEY) == manifest


def test_one_cut_body_is_asked_for_again(s3, proxy):
    store = Store.open(s3)
    manifest = store.commit("report", KEY, {f"reports/{KEY}.bin": bytes(2_000_000)})
    cut: list[Asked] = []

    def cut_once(asked: Asked, forward: Forward) -> Answer:
        answer = forward()
        if asked.method == "GET" and not cut:
            cut.append(asked)
            return answer._replace(body=answer.body[:100], declared=len(answer.body))
        return answer

    proxy.trick = cut_once
    assert store.find("report", KEY) == manifest
    assert cut


def test_an_upload_that_is_refused_leaves_no_parts_behind(s3, proxy):
    def refuse_second(asked: Asked, forward: Forward) -> Answer:
        return refusal(500, "InternalError") if "partNumber=2" in asked.query else forward()

    proxy.trick = refuse_second
    store = Store.open(s3)
    with pytest.raises(StoreError, match=r"cannot write .*check that the server is up"):
        store.commit("report", KEY, {f"reports/{KEY}.bin": bytes(33 << 20)})
    assert any(asked.method == "DELETE" and "uploadId" in asked.query for asked in proxy.seen)
    assert store.files.under("reports") == []


@pytest.mark.parametrize(
    "url",
    [
        f"s3://AKIA:{SECRET}@bucket/store",
        f"s3://AKIA:{SECRET}/bucket",
        f"s3://{SECRET.replace('/', '')}@bucket",
        f"s3://bucket/store?secret={SECRET}",
        f"s3://bucket?endpoint_url=http://x:{SECRET}@y/",
        f"s3://bucket/store#{SECRET}",
        f"memory://x?key={SECRET}",
        f"simplecache::s3://AKIA:{SECRET}@bucket/store",
    ],
)
def test_a_url_that_carries_secrets_is_refused_without_repeating_them(url):
    with pytest.raises(StoreError, match="they are read from the environment") as caught:
        Store.open(url)
    assert SECRET not in str(caught.value)
    assert SECRET.replace("/", "") not in str(caught.value)


def test_a_url_without_a_bucket_is_refused():
    for url in ("s3://", "s3:///", "memory://"):
        with pytest.raises(StoreError, match=r"names no bucket or folder: give"):
            Store.open(url)


def test_a_password_in_the_endpoint_stays_out_of_messages(s3, connections, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://someone:{SECRET.replace('/', '')}@127.0.0.1:9")
    with pytest.raises(StoreError) as caught:
        Store.open(s3).find("report", KEY)
    assert SECRET.replace("/", "") not in str(caught.value)


def test_without_s3fs_the_message_names_the_extra():
    code = """
import sys
sys.modules["s3fs"] = None
from flows.cli import main
main(["sql", "SELECT 1", "--store", "s3://bucket/store"])
"""
    done: Any = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "pip install 'cmrm[s3]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
