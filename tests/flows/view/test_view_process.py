"""`cmrm view` as a process of its own: the commands of its page, Ctrl-C with a query running, and mistakes."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from storage.store import Store
from tests.made_up_store import fill
from tests.preloaded import Forked, Preloaded

PAGE = (Path(__file__).parents[3] / "docs" / "view.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("cmrm view")]
# Where files are made for a time was found at the import, before the environment was as it is now.
CODE = "import sys, tempfile; tempfile.tempdir = None; from flows.cli import main; main(sys.argv[1:])"
# Would run for hours, were it not on one core and stopped.
ENDLESS = "SELECT sum(a.range * b.range % 7) FROM range(10_000_000) a, range(10_000_000) b"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return fill(Store.create(tmp_path_factory.mktemp("process") / "store")).url


@pytest.fixture(scope="module")
def parent() -> Iterator[Preloaded]:
    with Preloaded(
        "flows.cli", "flows.commands.view", "flows.view.server", "flows.report.sections"
    ) as started:
        yield started


def read_address(process: Forked) -> str:
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    assert lines[2] == "Ctrl-C ends it.\n"
    return str(lines[1].strip())


def end(process: Forked) -> None:
    process.kill()
    process.wait()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_show_the_store_until_ctrl_c(
    parent: Preloaded, store: str, command: str
) -> None:
    words = shlex.split(command)[1:]
    if "--port" in words:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            words[words.index("--port") + 1] = str(free.getsockname()[1])
    environment = {"CMRM_STORE": store, "DISPLAY": ":77", "BROWSER": "false"}
    process = parent.start(
        CODE, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        address = urlsplit(read_address(process))
        if "--port" in words:
            assert str(address.port) == words[words.index("--port") + 1]
        connection = http.client.HTTPConnection(str(address.hostname), address.port)
        connection.request("GET", f"{address.path}?{address.query}")
        assert connection.getresponse().status == 200
        connection.close()
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)
    finally:
        end(process)
    assert (process.returncode, *said) == (130, "", "")


def test_ctrl_c_ends_it_while_a_query_runs_and_leaves_nothing_behind(
    parent: Preloaded, store: str, tmp_path: Path
) -> None:
    one_core = f"import os; os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}]); "
    process = parent.start(
        one_core + CODE,
        "view",
        store,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"TMPDIR": str(tmp_path)},
    )
    try:
        address = urlsplit(read_address(process))
        query = f"CREATE TEMP TABLE mine AS SELECT 1; {ENDLESS}"
        asker, other = (
            http.client.HTTPConnection(str(address.hostname), address.port, timeout=60) for _ in "ab"
        )
        other.request("GET", f"{address.path}?{address.query}")
        entered = other.getresponse()
        cookie = str(entered.headers["Set-Cookie"]).partition(";")[0]
        root = entered.read().decode().partition("url=")[2].partition('"')[0]
        headers = {
            "Cookie": cookie,
            "Origin": f"http://{address.netloc}",
            "Content-Type": "application/json",
        }
        asker.request("POST", f"{root}queries", json.dumps({"query": query}), headers)
        # The server has read the query by then, which is about to run or runs.
        other.request("GET", root, headers={"Cookie": cookie})
        assert other.getresponse().read()
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)
        asker.close()
        other.close()
    finally:
        end(process)
    assert (process.returncode, *said) == (130, "", "")
    assert [*tmp_path.iterdir()] == []


def test_a_store_that_is_not_there_and_a_port_that_is_taken_are_said_with_the_fix(
    parent: Preloaded, store: str, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        for arguments, said in (
            (
                ("view", str(tmp_path / "none")),
                f"cmrm: there is no store at {tmp_path / 'none'}: check the path",
            ),
            (
                ("view", store, "--port", str(number)),
                f"cmrm: --port {number}: cannot be listened on (Address already",
            ),
        ):
            process = parent.start(
                CODE, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            out, error = process.communicate(timeout=60)
            assert (process.returncode, out) == (2, "")
            assert error.startswith(said)
