"""Remote files are fetched within bounds, from whom they may be fetched, and kept until their server has others."""

from __future__ import annotations

import gzip
import ipaddress
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from s3fs import S3FileSystem

from storage.backends import http_files
from storage.backends.http_files import is_public
from storage.backends.http_limits import Limits, NoAnswerError, RemoteFileError
from storage.backends.remote_files import check_url, fetch_bytes, fetch_file, is_remote, join_url, show_url
from storage.errors import StoreError
from tests.file_server import FileServer, serve_bytes, serve_files, wait
from tests.s3 import BUCKET, forget_connections, run_s3, set_environment

QUICK = Limits(connect=2, read=0.3, pause=0.01, longest_pause=0.05)
BODY = bytes(range(256)) * 40


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FileServer]:
    monkeypatch.setenv("CMRM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    with serve_files() as server:
        yield server


def fetch(url: str, most: int = 1 << 20) -> bytes:
    return fetch_bytes(url, most=most, limits=QUICK)


def test_the_bytes_that_a_server_has_are_fetched_with_and_without_their_length(server: FileServer) -> None:
    server.put("/plain", BODY)
    server.put("/unsaid", BODY, declared=None)
    server.put("/empty")
    assert [fetch(f"{server.url}/{name}") for name in ("plain", "unsaid", "empty")] == [BODY, BODY, b""]


def test_names_with_spaces_and_other_letters_are_asked_for_as_urls_have_them(server: FileServer) -> None:
    server.put("/a%20b/%D0%B6.bin", BODY)
    assert fetch(f"{server.url}/a b/ж.bin") == fetch(f"{server.url}/a%20b/%D0%B6.bin") == BODY


@pytest.mark.parametrize(
    ("statuses", "attempts"), [((500, 429, 200), 3), ((0, 200), 2), ((503, 502, 504, 200), 4)]
)
def test_answers_that_may_pass_are_asked_for_again(
    server: FileServer, statuses: tuple[int, ...], attempts: int
) -> None:
    url = server.put("/file", BODY, statuses=statuses)
    assert fetch(url) == BODY
    assert server.asked["/file"] == attempts


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_other_answers_are_final_and_named_with_their_host(server: FileServer, status: int) -> None:
    url = server.put("/file", statuses=(status, 200))
    with pytest.raises(RemoteFileError, match=rf"/file: 127\.0\.0\.1 answers {status} \(\w"):
        fetch(url)
    assert server.asked["/file"] == 1


def test_a_server_that_stays_out_of_order_is_asked_as_often_as_the_limit_says(server: FileServer) -> None:
    url = server.put("/file", statuses=(503,), headers={"Retry-After": "1"})
    with pytest.raises(NoAnswerError, match="answers 503"):
        fetch(url)
    assert server.asked["/file"] == QUICK.attempts


def test_a_redirect_is_followed_and_more_than_five_are_not(server: FileServer) -> None:
    server.put("/end", BODY)
    for number in range(7):
        target = "/end" if number == 0 else f"/{number - 1}"
        server.put(f"/{number}", statuses=(302,), headers={"Location": target})
    assert fetch(f"{server.url}/4") == BODY
    with pytest.raises(RemoteFileError, match="redirects more than 5 times"):
        fetch(f"{server.url}/5")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("file:///etc/hostname", "redirects to file://, which is not followed"),
        ("ftp://127.0.0.1/x", "redirects to ftp://"),
        ("http://example.com/x", "redirects to http://"),
        ("http://user:geheimnis@127.0.0.1/x", "a user or password"),
        ("http://169.254.169.254/latest/meta-data", "redirects to http://"),
        ("http://[::1", "redirects to what is no URL"),
        ("https://exa mple.com/x", "is no URL"),
    ],
)
def test_a_redirect_to_what_is_no_safe_url_is_refused(server: FileServer, target: str, said: str) -> None:
    url = server.put("/file", statuses=(302,), headers={"Location": target})
    with pytest.raises(RemoteFileError, match=said) as raised:
        fetch(url)
    assert "geheimnis" not in str(raised.value)


def test_a_server_of_the_internet_cannot_lead_into_a_private_network(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first server's address counts as one of the internet here; the second one's does not.
    monkeypatch.setattr(http_files, "is_public", lambda host: host == "127.0.0.1")
    with serve_files("127.0.0.2") as inner:
        secret = inner.put("/secret", BODY)
        assert fetch(secret) == BODY
        url = server.put("/file", statuses=(302,), headers={"Location": secret})
        with pytest.raises(RemoteFileError, match=r"127\.0\.0\.2 is no address of the internet"):
            fetch(url)
        assert inner.asked["/secret"] == 1


def test_public_addresses_are_distinguished_from_private_ones() -> None:
    assert all(map(is_public, ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c")))
    inner = ("127.0.0.1", "10.1.2.3", "192.168.0.9", "172.16.1.1", "100.64.0.1", "169.254.169.254", "0.0.0.0")
    assert not any(map(is_public, (*inner, "::1", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "224.0.0.1")))


def test_link_local_addresses_are_never_asked() -> None:
    with pytest.raises(RemoteFileError, match="link-local"):
        http_files._refuse_address("169.254.169.254", "any", "metadata")
    with pytest.raises(RemoteFileError, match="link-local"):
        http_files._refuse_address("::ffff:169.254.169.254", "any", "metadata")


def test_more_bytes_than_the_limit_are_refused_before_or_while_they_come(server: FileServer) -> None:
    said, unsaid = server.put("/said", BODY), server.put("/unsaid", BODY, declared=None)
    assert len(fetch(said, most=len(BODY))) == len(BODY)
    with pytest.raises(RemoteFileError, match=r"/said has 10,240 bytes, more than"):
        fetch(said, most=len(BODY) - 1)
    with pytest.raises(RemoteFileError, match="/unsaid has more than"):
        fetch(unsaid, most=len(BODY) - 1)
    endless = server.put("/endless", endless=True)
    with pytest.raises(RemoteFileError, match="/endless has more than 1 MiB"):
        fetch(endless, most=1 << 20)


def test_a_body_shorter_than_announced_is_asked_for_again_and_then_refused(server: FileServer) -> None:
    url = server.put("/file", BODY, declared=len(BODY) + 5)
    with pytest.raises(NoAnswerError, match=r"hung up after 10,240 of 10,245 bytes"):
        fetch(url)
    assert server.asked["/file"] == QUICK.attempts


def test_a_silent_server_is_waited_for_no_longer_than_the_limit(server: FileServer) -> None:
    url = server.put("/file", BODY, before_end=wait(1.5))
    begun = time.monotonic()
    with pytest.raises(NoAnswerError, match="does not answer"):
        fetch(url)
    assert time.monotonic() - begun < 1.2
    assert server.asked["/file"] == 1


def test_a_server_that_drips_is_stopped(server: FileServer) -> None:
    url = server.put("/file", BODY[:400], drip=0.02)
    begun = time.monotonic()
    with pytest.raises(NoAnswerError, match="sends less than 1024 bytes a second"):
        fetch(url)
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    ("start", "again"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
)
def test_a_head_that_drips_has_a_deadline_however_short_each_silence_is(start: bytes, again: bytes) -> None:
    limits = replace(QUICK, read=5, head=0.2)
    with serve_bytes(start, again=again) as url, pytest.raises(NoAnswerError) as raised:
        fetch_bytes(url, most=1 << 20, limits=limits)
    assert str(raised.value) == "127.0.0.1 has not sent the head of its answer in 0.2 s"


def test_redirects_share_the_deadline_of_a_head(server: FileServer) -> None:
    for number in range(3):
        target = {"Location": f"/{number + 1}"}
        server.put(f"/{number}", statuses=(302,), headers=target, before_end=wait(0.15))
    server.put("/3", BODY)
    assert fetch(f"{server.url}/0") == BODY
    # Each redirect is answered at once, and its connection is closed by us.
    with pytest.raises(NoAnswerError, match=r"has not sent the head of its answer in 1e-06 s"):
        fetch_bytes(f"{server.url}/0", most=1 << 20, limits=replace(QUICK, head=1e-6))


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"longest": 0.2}, r"has not sent all of it in 0\.2 s"),
        ({"read": 0.2}, "sends less than 1024 bytes a second"),
    ],
)
def test_a_body_that_drips_its_chunks_lengths_is_stopped(limits: dict[str, float], said: str) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;"
    with serve_bytes(head, again=b"x") as url, pytest.raises(NoAnswerError, match=said):
        fetch_bytes(url, most=1 << 20, limits=replace(QUICK, **{"read": 5, **limits}))


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP"])
def test_a_body_that_is_sent_as_gzip_is_what_it_was_before(server: FileServer, coding: str) -> None:
    packed = gzip.compress(BODY[:5000]) + gzip.compress(BODY[5000:])
    url = server.put("/file", packed, headers={"Content-Encoding": coding})
    assert fetch(url) == BODY
    assert fetch(server.put("/unsaid", packed, headers={"Content-Encoding": coding}, declared=None)) == BODY
    # Servers call the compression of a file so; its suffix tells the reader.
    assert fetch(server.put("/file.gz", packed, headers={"Content-Encoding": coding})) == packed


def test_gzip_is_bounded_by_what_comes_out_and_refused_where_it_is_none(server: FileServer) -> None:
    headers = {"Content-Encoding": "gzip"}
    url = server.put("/bomb", gzip.compress(bytes(1 << 24)), headers=headers)
    with pytest.raises(RemoteFileError, match="/bomb has more than 1 MiB"):
        fetch(url)
    url = server.put("/none", BODY, headers=headers)
    with pytest.raises(RemoteFileError, match="compressed by gzip, and it is not or is damaged"):
        fetch(url)
    url = server.put("/cut", gzip.compress(BODY)[:-20], headers=headers)
    with pytest.raises(NoAnswerError, match="hung up in the middle of it"):
        fetch(url)
    assert server.asked["/cut"] == QUICK.attempts
    url = server.put("/other", BODY, headers={"Content-Encoding": "br"})
    with pytest.raises(RemoteFileError, match=r"sends it compressed \(br\), though asked not to"):
        fetch(url)


def test_a_file_that_takes_longer_in_all_than_it_may_is_stopped(server: FileServer) -> None:
    url = server.put("/file", BODY[:400], drip=0.02)
    with pytest.raises(NoAnswerError, match=r"has not sent all of it in 0\.2 s"):
        fetch_bytes(url, most=1 << 20, limits=Limits(longest=0.2))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://example.com/a.jsonl", r"plain http.*give https://"),
        ("https://user:geheimnis@127.0.0.1/a", "a user or password"),
        ("https:///a", "names no host"),
        ("https://host:99999/a", "is no URL"),
        ("https://ho st/a", "is no URL.*space"),
        ("https://ho\x00st/a", "is no URL"),
        ("https://host/\ud800.png", "is no URL"),
    ],
)
def test_urls_that_are_not_fetched_are_named_without_their_secrets(url: str, said: str) -> None:
    with pytest.raises(RemoteFileError, match=said) as raised:
        fetch(url)
    assert "geheimnis" not in str(raised.value)


def test_a_key_of_s3_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(RemoteFileError, match="names no bucket or file"):
        check_url("s3://bucket/\ud800.png")


def test_a_server_that_is_not_there_is_named(server: FileServer) -> None:
    server.stop()
    with pytest.raises(NoAnswerError, match=r"127\.0\.0\.1 refuses the connection"):
        fetch(f"{server.url}/file")


def test_only_https_http_and_s3_are_remote() -> None:
    assert all(map(is_remote, ("https://a/b", "HTTP://a", "s3://a/b", "s3a://a/b")))
    assert not any(
        map(is_remote, ("file:///a", "ftp://a/b", "data:image/png;base64,", "a.png", "organism://x"))
    )


def test_a_query_is_not_shown_nor_a_user() -> None:
    assert show_url("https://me:pass@host/a/b?sig=x#y") == "https://host/a/b"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("x\\a b.png", "x/a%20b.png"),
        ("./x//a.png", "x/a.png"),
        ("50%41.png", "50%2541.png"),
        ("%2e%2e/a.png", "%252e%252e/a.png"),
        ("a.png?x#y", "a.png%3Fx%23y"),
    ],
)
def test_a_name_in_a_remote_folder_is_asked_for_as_it_would_be_on_disk(name: str, path: str) -> None:
    assert join_url("https://host/folder/", name) == f"https://host/folder/{path}"
    assert unquote(path) == name.replace("\\", "/").replace("./x//", "x/")


def test_a_url_with_a_query_is_no_folder() -> None:
    with pytest.raises(RemoteFileError, match="no URL of a folder"):
        join_url("https://host/folder?x=1", "a.png")


def test_s3_is_known_in_capitals_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def find(url: str, **_: object) -> tuple[object, str]:
        seen.append(url)
        raise ImportError

    monkeypatch.setattr("fsspec.core.url_to_fs", find)
    with pytest.raises(StoreError, match="s3fs"):
        fetch("S3://Bucket/Key.jsonl")
    assert seen == ["s3://Bucket/Key.jsonl"]


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a/../../b", ".", ""])
def test_a_name_that_leads_out_of_a_remote_folder_is_refused(name: str) -> None:
    with pytest.raises(RemoteFileError, match="no name of a file inside"):
        join_url("https://host/folder", name)


def make_certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate of 127.0.0.1 that it signed itself, and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "made up for a test")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    return certificate, context


def test_https_is_read_from_a_server_whose_certificate_is_trusted_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    certificate, context = make_certificate(tmp_path)
    with serve_files(tls=context) as server:
        url = server.put("/file", BODY)
        assert url.startswith("https://")
        with pytest.raises(RemoteFileError, match=r"certificate that is not trusted .*SSL_CERT_FILE"):
            fetch(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert fetch(url) == BODY
        plain = "http" + url.removeprefix("https")
        server.put("/down", statuses=(302,), headers={"Location": plain.replace("127.0.0.1", "example.com")})
        with pytest.raises(RemoteFileError, match="redirects to http://"):
            fetch(f"{server.url}/down")


# The kept copies.


def test_a_file_is_fetched_once_while_its_server_says_that_it_is_the_same(server: FileServer) -> None:
    url = server.put("/data/rows.jsonl.gz", BODY, headers={"ETag": '"one"'})
    first = fetch_file(url, limits=QUICK)
    assert first.read_bytes() == BODY
    assert first.name.endswith("-rows.jsonl.gz")
    server.pages["/data/rows.jsonl.gz"].body = b"not sent, since the tag is the same"
    assert fetch_file(url, limits=QUICK) == first
    server.put("/data/rows.jsonl.gz", b"new", headers={"ETag": '"two"'})
    second = fetch_file(url, limits=QUICK)
    assert second.read_bytes() == b"new"
    # Whoever still reads the first one reads it to the end.
    assert first.read_bytes() == BODY


def test_a_file_without_a_tag_is_fetched_again_and_kept_once(server: FileServer) -> None:
    url = server.put("/rows.csv", BODY)
    assert fetch_file(url, limits=QUICK) == fetch_file(url, limits=QUICK)
    assert server.asked["/rows.csv"] == 2
    changed = server.put("/rows.csv", BODY[1:])
    assert fetch_file(changed, limits=QUICK).read_bytes() == BODY[1:]


def test_a_kept_file_of_another_size_is_fetched_anew(server: FileServer) -> None:
    url = server.put("/rows.csv", BODY, headers={"ETag": '"one"'})
    kept = fetch_file(url, limits=QUICK)
    kept.write_bytes(BODY[:10])
    assert fetch_file(url, limits=QUICK).read_bytes() == BODY


def test_offline_the_cached_file_is_used_and_a_lost_server_is_named_with_that_fix(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.put("/rows.csv", BODY)
    kept = fetch_file(url, limits=QUICK)
    server.stop()
    with pytest.raises(
        NoAnswerError, match=r"refuses the connection.*copy of 20\d\d-.* UTC, set HF_HUB_OFFLINE=1"
    ):
        fetch_file(url, limits=QUICK)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch_file(url, limits=QUICK) == kept
    with pytest.raises(RemoteFileError, match="HF_HUB_OFFLINE is set, and no copy"):
        fetch_file("https://example.com/rows.csv")


def test_a_file_that_was_taken_away_is_not_replaced_by_its_copy(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.put("/rows.csv", BODY)
    fetch_file(url, limits=QUICK)
    server.put("/rows.csv", statuses=(404,))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RemoteFileError, match="404"):
        fetch_file(url, limits=QUICK)


def test_several_that_fetch_one_file_at_once_get_it_whole(server: FileServer, tmp_path: Path) -> None:
    url = server.put("/rows.csv", BODY, headers={"ETag": '"one"'}, before_end=wait(0.05))
    begin = threading.Barrier(6)

    def take(_: int) -> bytes:
        begin.wait()
        return fetch_file(url, limits=QUICK).read_bytes()

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(take, range(6))) == [BODY] * 6
    left = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(left) == 2


def test_what_broke_off_leaves_nothing_behind(server: FileServer, tmp_path: Path) -> None:
    url = server.put("/rows.csv", BODY, declared=len(BODY) + 1)
    with pytest.raises(NoAnswerError):
        fetch_file(url, limits=QUICK)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


# S3.


def test_a_file_on_s3_is_fetched_kept_bounded_and_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMRM_CACHE", str(tmp_path / "cache"))
    with run_s3(tmp_path) as s3:
        set_environment(monkeypatch, tmp_path, AWS_ENDPOINT_URL=s3.url)
        forget_connections()
        s3.ask("PUT", f"/{BUCKET}/data/rows.jsonl", BODY)
        url = f"s3://{BUCKET}/data/rows.jsonl"
        assert fetch(url) == BODY
        kept = fetch_file(url)
        assert kept.read_bytes() == BODY
        reads = [line for line in s3.requests() if line.startswith("GET")]
        assert fetch_file(url) == kept
        assert [line for line in s3.requests() if line.startswith("GET")] == reads
        S3FileSystem().pipe_file(url, b"new")
        assert fetch_file(url).read_bytes() == b"new"
        with pytest.raises(RemoteFileError, match="has 3 bytes, more than"):
            fetch(url, most=2)
        with pytest.raises(RemoteFileError, match=rf"s3://{BUCKET}/none is not there"):
            fetch(f"s3://{BUCKET}/none")
        with pytest.raises(StoreError, match=r"bucket"):
            fetch("s3://cmrm-no-bucket/none")
        forget_connections()
