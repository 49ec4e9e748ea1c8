"""What was examined of all families: most in these processes, those that need torchvision in ones that have it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.conformance.builders import BUILDERS, NEED_TORCHVISION
from tests.conformance.examination import examine_families
from tests.preloaded import Forked, Parent, share_parent

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
MOST_SECONDS = 600


class Examined(Mapping[str, Any]):
    """What was found in one part, by family; asking for a family whose examination failed raises why."""

    def __init__(self, part: str, families: Mapping[str, Mapping[str, Any]]) -> None:
        self._part, self._families = part, families

    def __getitem__(self, family: str) -> Any:
        one = self._families[family]
        failed = one["failed"].get("load") or one["failed"].get(self._part)
        assert failed is None, f"{family}, {self._part}:\n{failed}"
        return one["found"][self._part]

    def __iter__(self) -> Iterator[str]:
        return iter(self._families)

    def __len__(self) -> int:
        return len(self._families)


def examine_all(folder: Path, parts: Collection[str]) -> Mapping[str, Mapping[str, Any]]:
    """What `examine_family` returns for each family; processes that share the folder share the work."""
    folder.mkdir(exist_ok=True)
    elsewhere = start_program(
        folder, "tests.conformance.program", str(folder), ",".join(sorted(parts)), *sorted(NEED_TORCHVISION)
    )
    examine_families(folder, sorted(parts), sorted(set(BUILDERS) - NEED_TORCHVISION))
    _finish(elsewhere)
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in BUILDERS}


def run_elsewhere(folder: Path, program: str, *given: str) -> str:
    """What a program says that is run in a process that has torchvision."""
    return _finish(start_program(folder, program, *given))


def start_program(folder: Path, program: str, *given: str) -> Forked:
    """Start a program in a process that has torchvision, forked from one that all who share the folder share."""
    return share_torchvision(folder).start(
        RUN_PROGRAM, program, *given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def share_torchvision(folder: Path) -> Parent:
    """The process with torchvision that others are forked from."""
    assert TORCHVISION.is_dir(), f"{TORCHVISION} is not there: `make test` installs it"
    return share_parent(folder / "torchvision", *IMPORTED, environment={"PYTHONPATH": str(TORCHVISION)})


def _finish(process: Forked) -> str:
    said, complaint = process.communicate(timeout=MOST_SECONDS)
    assert process.returncode == 0, complaint
    return said
