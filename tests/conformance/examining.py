"""The conformance checks of all families: most in this process, those that need torchvision in one that has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.conformance.builders import BUILDERS, NEED_TORCHVISION
from tests.conformance.program import examine_tiny

ROOT = Path(__file__).parents[2]
# Where `make test` puts torchvision, out of sight of everything else.
TORCHVISION = Path(sys.prefix) / "torchvision"


def examine_all() -> Mapping[str, Mapping[str, Any]]:
    """What `examine_tiny` returns for each family, by its name."""
    here = [examine_tiny(name) for name in BUILDERS if name not in NEED_TORCHVISION]
    return {one["family"]: one for one in (*here, *examine_elsewhere(sorted(NEED_TORCHVISION)))}


def examine_elsewhere(
    names: Sequence[str], *, program: str = "tests.conformance.program"
) -> Iterator[dict[str, Any]]:
    """Run a program on these families in one process that can import torchvision; what its lines of JSON say."""
    assert TORCHVISION.is_dir(), f"{TORCHVISION} is not there: `make test` installs it"
    done = subprocess.run(
        [sys.executable, "-m", program, *names],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(TORCHVISION)])},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return (json.loads(line) for line in done.stdout.splitlines())
