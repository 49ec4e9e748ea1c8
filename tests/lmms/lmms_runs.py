"""Runs lmms-eval in its own environment, with this checkout's cmrm and its entry points on the path."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

from tests.other_environments import TORCHVISION_SITE, find_environment

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "utility.md"
BLOCK = re.compile(r'^```(\w+) title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
# What the page's commands may take on a busy machine with two cores; alone they take two minutes.
LIMIT = 900


def read_blocks() -> dict[str, tuple[str, str]]:
    """The page's blocks that have a title: language and text."""
    found = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    return {title: (language, text) for language, title, text in found}


def install(folder: Path) -> None:
    """Make what pip makes of the checkout: its entry points, and the command `cmrm`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    made = folder / "site" / "cmrm.dist-info"
    made.mkdir(parents=True)
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: cmrm\nVersion: 0\n")
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    (made / "entry_points.txt").write_text("\n".join([*lines, ""]))
    command = folder / "bin" / "cmrm"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\nexec python -c 'from flows.cli import start; start()' \"$@\"\n")
    command.chmod(0o755)


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with the environment's programs first on the path."""
    python = Path(find_environment("lmms", target="test-lmms"))
    paths = [ROOT, folder / "site", TORCHVISION_SITE]
    return subprocess.run(
        command,
        check=False,
        cwd=folder,
        env={
            **os.environ,
            "PATH": os.pathsep.join([str(folder / "bin"), str(python.parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "HF_HOME": str(folder / "hub"),
            "PREFECT_HOME": str(folder / "prefect"),
        },
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def read_samples(folder: Path, task: str) -> list[dict[str, Any]]:
    """The log of a task's samples."""
    (path,) = folder.glob(f"**/*_samples_{task}.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_json(folder: Path, pattern: str) -> dict[str, Any]:
    """The only file of a pattern."""
    (path,) = folder.glob(pattern)
    return json.loads(path.read_text(encoding="utf-8"))
