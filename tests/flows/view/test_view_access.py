"""Who may ask `cmrm view`: this machine, with the token, asking for itself, by GET or POST; all else is refused."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from storage.store import Store
from tests.made_up_store import fill
from tests.view_server import Served, serve_view

PAGES = ("/", "/sql", "/comparisons", "/runs/r1", "/views", "/queries/x", "/nothing")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return fill(Store.create(tmp_path_factory.mktemp("access") / "store"))


@pytest.fixture(scope="module")
def served(store: Store) -> Iterator[Served]:
    with serve_view(store) as running:
        yield running


def read_directives(policy: str) -> dict[str, str]:
    return {one.split()[0]: " ".join(one.split()[1:]) for one in policy.split(";")}


def test_the_printed_address_lets_a_browser_in_by_a_cookie_that_no_script_and_no_other_site_has(
    served: Served,
) -> None:
    token = served.address.partition("?token=")[2]
    assert len(token) >= 43  # 256 bits
    answer = served.send("GET", f"/?token={token}", Cookie=None, Sec_Fetch_Site="cross-site")
    assert answer.status == 200
    cookie, *attributes = answer.headers["set-cookie"].lower().split("; ")
    assert cookie == f"cmrm-view-{served.access.port}={token}".lower()
    root = served.access.root
    assert {"httponly", "samesite=strict", f"path={root}/".lower()} <= set(attributes)
    assert token not in answer.text
    assert f'content="0;url={root}/"' in answer.text
    assert served.ask("GET", "/").status == 200


@pytest.mark.parametrize("path", PAGES)
def test_without_the_token_or_with_a_wrong_one_nothing_is_shown(served: Served, path: str) -> None:
    name = served.access.cookie
    for cookie in (
        None,
        "",
        f"{name}=",
        f"{name}={served.access.token[:-1]}",
        f"other={served.access.token}",
    ):
        answer = served.ask("GET", path, Cookie=cookie)
        assert (answer.status, answer.headers["content-type"]) == (403, "text/plain; charset=utf-8")
        assert answer.text == "Open the address that cmrm view has printed: it holds the token."
    for token in ("", "x", served.access.token + "x", "%ff%00", "%C3%A9"):
        assert served.send("GET", f"/?token={token}").status == 403


@pytest.mark.parametrize("path", ["/?token=wrong", "/", "/sql", "/views", "/x/sql", "/%3Ftoken=x"])
def test_a_wrong_token_and_a_path_that_was_guessed_are_refused_though_the_cookie_is_right(
    served: Served, path: str
) -> None:
    answer = served.send("GET", path)
    assert (answer.status, served.access.root in answer.text) == (403, False)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1.evil.example:{port}",
        "127.0.0.2:{port}",
        "[::1]:{port}",
        "",
    ],
)
def test_another_host_name_is_refused_with_the_right_token_too(served: Served, host: str) -> None:
    for path in (f"{served.access.root}/", f"/?token={served.access.token}"):
        answer = served.send("GET", path, Host=host.format(port=served.access.port))
        assert answer.status == 403
        assert "set-cookie" not in answer.headers
        assert "on this machine" in answer.text


def test_the_port_of_a_tunnel_is_no_other_host(served: Served) -> None:
    assert served.ask("GET", "/", Host="localhost:9").status == 200


def test_the_seal_of_a_report_admits_to_that_report_alone(served: Served) -> None:
    address = served.ask("GET", "/runs/r1").headers["location"]
    run, seal = address.removeprefix("/runs/").split("/")
    assert (run, len(seal)) == ("r1", 64)
    # As a browser asks again for a page that runs apart from this origin.
    away: dict[str, str | None] = {"Cookie": None, "Sec_Fetch_Site": "cross-site"}
    assert "has no report" in served.send("GET", address, **away).text
    others = (
        f"/runs/r2/{seal}",
        f"/runs/r1/{seal[:-1]}",
        f"/runs/r1/{seal}%3F",
        "/runs/r1/",
        f"/sql/r1/{seal}",
        f"/r1/{seal}",
        f"{served.access.root}{address}",
    )
    for other in others:
        assert served.send("GET", other, **away).status == 403
    assert served.send("POST", address, **away).status == 403
    assert served.send("GET", address, Host="evil.example", **away).status == 403


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_other_methods_are_refused(served: Served, method: str) -> None:
    answer = served.ask(method, "/")
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, POST"


@pytest.mark.parametrize("path", ["/", "/sql", "/comparisons", "/views"])
def test_pages_are_not_posted_to(served: Served, path: str) -> None:
    assert served.ask("POST", path, data=b"{}").status == 405


def test_another_site_and_another_port_may_not_ask_though_the_browser_sends_the_cookie(
    served: Served,
) -> None:
    for site in ("cross-site", "same-site"):
        assert served.ask("GET", "/", Sec_Fetch_Site=site).status == 403
    for site in ("same-origin", "none"):
        assert served.ask("GET", "/", Sec_Fetch_Site=site).status == 200
    data = b'{"query": "SELECT 1"}'
    for origin in (None, "null", "http://127.0.0.1:1", "https://evil.example", f"https{served.origin[4:]}"):
        answer = served.ask("POST", "/queries", data=data, Origin=origin)
        assert (answer.status, "origin" in answer.text) == (403, True)
    assert served.ask("POST", "/queries", data=data).status == 200
    # A form of another page could send no other kind of text.
    for kind in (None, "text/plain", "application/x-www-form-urlencoded"):
        assert served.ask("POST", "/queries", data=data, Content_Type=kind).status == 400


@pytest.mark.parametrize("path", [*PAGES, "/?token=wrong"])
@pytest.mark.parametrize("headers", [{}, {"Cookie": None}])
def test_every_answer_is_confined(served: Served, path: str, headers: dict[str, str | None]) -> None:
    answer = served.ask("GET", path, **headers)
    policy = read_directives(answer.headers["content-security-policy"])
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert not any("unsafe" in sources or "http" in sources or "*" in sources for sources in policy.values())
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "server" not in answer.headers
    assert not [name for name in answer.headers if name.startswith("access-control")]


class Handlers(HTMLParser):
    """Everything in a page that could act or fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - the name is given
        self.found += [
            name for name, _ in attributes if name.startswith("on") or name in {"src", "style", "action"}
        ]


def test_the_pages_themselves_name_no_address_elsewhere_and_have_no_handlers(served: Served) -> None:
    for path in ("/", "/sql", "/comparisons"):
        text = served.ask("GET", path).text
        seen = Handlers()
        seen.feed(text)
        assert seen.found == []
        assert "https://" not in text
        assert text.count("http://") == text.count("http://www.w3.org/2000/svg")


def test_it_listens_on_the_loopback_interface_alone(served: Served) -> None:
    with socket.socket() as other:
        other.settimeout(5)
        # Another address of this machine's loopback network, which an open port would answer on.
        assert other.connect_ex(("127.0.0.2", served.access.port)) != 0


def test_nothing_is_written_to_the_store(served: Served, store: Store) -> None:
    def read() -> dict[Path, bytes | int]:
        # A folder's time changes with each file that is made or removed in it.
        files = sorted(Path(store.url).rglob("*"))
        return {path: path.read_bytes() if path.is_file() else path.stat().st_mtime_ns for path in files}

    process = {"host": "elsewhere", "pid": 1, "boot": "x", "started": 1.0}
    store.write_run("r3", {"model": "m", "status": "running", "heartbeat_seconds": 30.0, "process": process})
    beat = Path(store.url) / "heartbeats" / "r3.json"
    beat.parent.mkdir()
    beat.write_text("{}")
    os.utime(beat, (0, 0))
    before = read()
    for path in PAGES:
        served.ask("GET", path)
    assert "killed" in served.ask("GET", "/").text
    assert served.query("SELECT * FROM responses", run="r1").status == 200
    assert read() == before
