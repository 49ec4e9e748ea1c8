"""A cache or Prefect home that cannot be used is told of at once, before a server is started that could not work."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("variable", ["CMRM_CACHE", "PREFECT_HOME"])
def test_a_folder_of_ones_own_that_cannot_be_used_is_one_line_at_once(tmp_path: Path, variable: str) -> None:
    (tmp_path / "file").write_text("")
    own = {"CMRM_CACHE": str(tmp_path / "cache"), "PREFECT_HOME": str(tmp_path / "prefect")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from flows.cli import start; start()",
            "run",
            "--store",
            str(tmp_path / "store"),
        ],
        cwd=tmp_path,
        env=kept | own | {"PYTHONPATH": str(ROOT), variable: str(tmp_path / "file" / "below")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"cmrm: {variable}: the folder {tmp_path}/file/below cannot be used (Not a directory)"
    )
    assert not (tmp_path / "store").exists()
    # Of the processor's time: how long a test machine makes a process wait says nothing.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5
