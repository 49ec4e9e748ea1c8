"""The conformance checks of all families: most in this process, those that need torchvision in one that has it."""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

from tests.conformance.builders import BUILDERS, NEED_TORCHVISION
from tests.conformance.program import examine_tiny
from tests.preloaded import Preloaded

# Where `make test` puts torchvision, out of sight of everything else.
TORCHVISION = Path(sys.prefix) / "torchvision"
# What the programs import, torchvision before transformers.
IMPORTED = (
    *("tests.conformance.torchvision_first", "tests.conformance.builders", "tests.conformance.loading"),
    *("tests.warm", "cmrm.doctor", "cmrm.decoding.api", "cmrm.judges.checkpoint"),
)
# As `python -m` does.
RUN_PROGRAM = """
import runpy, sys
program, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(program, run_name="__main__", alter_sys=True)
"""


def examine_all() -> Mapping[str, Mapping[str, Any]]:
    """What `examine_tiny` returns for each family, by its name."""
    here = [examine_tiny(name) for name in BUILDERS if name not in NEED_TORCHVISION]
    return {one["family"]: one for one in (*here, *examine_elsewhere(sorted(NEED_TORCHVISION)))}


def examine_elsewhere(
    given: Sequence[str], *, program: str = "tests.conformance.program"
) -> Iterator[dict[str, Any]]:
    """Run a program on families or folders in a process that has torchvision; what its lines of JSON say."""
    done = start_parent().start(
        RUN_PROGRAM, program, *given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    said, complaint = done.communicate(timeout=300)
    assert done.returncode == 0, complaint
    return (json.loads(line) for line in said.splitlines())


@cache
def start_parent() -> Preloaded:
    """The process with torchvision that these are forked from; it ends with this one."""
    assert TORCHVISION.is_dir(), f"{TORCHVISION} is not there: `make test` installs it"
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(Preloaded(*IMPORTED, environment={"PYTHONPATH": str(TORCHVISION)}))
