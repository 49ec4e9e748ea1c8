"""Put deliberate faults into a copy of the code and see that the tests catch each: `python -m tests.mutants`.

First the tests of all faults run on the copy as it is, and must pass: one that fails anyway catches nothing. Then each
fault is put in, its tests run, and the file is put back. `tests/deliberate_faults.py` has the faults.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.deliberate_faults import FAULTS, Fault

ROOT = Path(__file__).parents[1]
PYTEST = (sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider")
# As OFFLINE in the Makefile.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "OMP_NUM_THREADS": "1",
}
# Exit statuses of pytest. All others (interrupted, usage error, no tests found) say nothing about a fault.
PASSED, FAILED = 0, 1
VERDICTS = {PASSED: "MISSED", FAILED: "caught"}
ERROR = "ERROR"
# Seconds after which tests are stopped: a fault may keep away what they wait for.
TIME_LIMIT = 600.0
TIMED_OUT = 124
# Exit statuses of this program.
MISSED_ONE, NO_VERDICT = 1, 2
# How much of what pytest printed is shown where it gave no verdict.
SHOWN_LINES = 30


class SetupError(Exception):
    """The faults cannot be tried on this tree; the message says why, a line for each reason."""


@dataclass(frozen=True, kw_only=True)
class PytestRun:
    """One run of pytest: its exit status, how many seconds it took, and the last lines that it printed."""

    status: int
    seconds: float
    output: str

    @property
    def verdict(self) -> str:
        """What the run says of the fault that was in the code."""
        return VERDICTS.get(self.status, ERROR)


def copy_tracked_files(tree: Path, folder: Path) -> None:
    """Copy what git tracks in a checkout, with its content in the working tree; raises `SetupError` without git."""
    listed = subprocess.run(
        ["git", "-C", str(tree), "ls-files", "-z"], check=False, capture_output=True, text=True
    )
    if listed.returncode:
        raise SetupError(f"{tree}: git cannot list its files ({listed.stderr.strip()})")
    for name in filter(None, listed.stdout.split("\0")):
        source, target = tree / name, folder / name
        # A file that was removed stays listed until the removal is staged.
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def check_fit(faults: Sequence[Fault], folder: Path) -> None:
    """Raise `SetupError` unless the text that each fault changes occurs exactly once in its file."""
    misfits = []
    for fault in faults:
        path = folder / fault.file
        if not path.is_file():
            misfits.append(f"{fault.name!r}: there is no file {fault.file}")
        elif (count := path.read_text(encoding="utf-8").count(fault.old)) != 1:
            misfits.append(f"{fault.name!r}: its text occurs {count} times in {fault.file}, not once")
    if misfits:
        raise SetupError("\n".join(misfits))


@contextmanager
def inject(fault: Fault, folder: Path) -> Iterator[None]:
    """Let the copy have a fault within a `with` block."""
    path = folder / fault.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(text, encoding="utf-8")


def run_tests(selection: Sequence[str], folder: Path, *, time_limit: float) -> PytestRun:
    """Run the selected tests of the copy, and stop them after so many seconds."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        status = _call_pytest(selection, folder, output.fileno(), time_limit)
        output.seek(0)
        lines = output.read().decode(errors="replace").splitlines()
    return PytestRun(
        status=status, seconds=time.monotonic() - started, output="\n".join(lines[-SHOWN_LINES:])
    )


def _call_pytest(selection: Sequence[str], folder: Path, output: int, time_limit: float) -> int:
    # In a session of its own, so that whatever the tests have started can be ended with them.
    process = subprocess.Popen(
        [*PYTEST, *selection],
        cwd=folder,
        env=make_environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return process.wait(time_limit)
    except subprocess.TimeoutExpired:
        return TIMED_OUT
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def make_environment(folder: Path) -> dict[str, str]:
    """Make the environment of the tests: offline, with the copy's code before any that is installed."""
    return {
        **os.environ,
        **OFFLINE,
        # Processes that tests start in other folders import the copy too.
        "PYTHONPATH": str(folder),
        # Python tells bytecode that is out of date by seconds and size alone, and a fault may change neither.
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def check_tests_pass(faults: Sequence[Fault], folder: Path) -> float:
    """Run the tests of all faults on code without any: the seconds; raises `SetupError` unless they pass."""
    selection = list(dict.fromkeys(test for fault in faults for test in fault.tests))
    run = run_tests(selection, folder, time_limit=len(faults) * TIME_LIMIT)
    if run.status != PASSED:
        raise SetupError(f"{run.output}\nwithout any fault, pytest ended with status {run.status}")
    return run.seconds


def try_fault(fault: Fault, folder: Path) -> PytestRun:
    """Run the tests of a fault on code that has it."""
    with inject(fault, folder):
        return run_tests(fault.tests, folder, time_limit=TIME_LIMIT)


def try_all(faults: Sequence[Fault], folder: Path) -> int:
    """Try each fault on the copy and print a line for it; the exit status of the program."""
    seconds = check_tests_pass(faults, folder)
    print(f"passed {seconds:6.1f} s  the tests of all faults, without any fault", flush=True)
    verdicts = []
    for fault in faults:
        run = try_fault(fault, folder)
        print(f"{run.verdict} {run.seconds:6.1f} s  {fault.file}: {fault.name}", flush=True)
        if run.verdict == ERROR:
            print(f"{run.output}\npytest ended with status {run.status}", flush=True)
        verdicts.append(run.verdict)
        seconds += run.seconds
    caught = verdicts.count(VERDICTS[FAILED])
    print(f"{caught} of {len(faults)} faults caught in {seconds:.0f} s")
    if VERDICTS[PASSED] in verdicts:
        return MISSED_ONE
    return NO_VERDICT if ERROR in verdicts else 0


def list_faults(faults: Sequence[Fault]) -> None:
    """Print each fault with the tests that must catch it."""
    for fault in faults:
        print(f"{fault.file}: {fault.name}")
        for test in fault.tests:
            print(f"    {test}")


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument(
        "--only", metavar="TEXT", default="", help="try the faults with this text in their name"
    )
    parser.add_argument("--list", action="store_true", help="list the faults and their tests, and try none")
    parser.add_argument(
        "--tree", metavar="PATH", type=Path, default=ROOT, help="break and test this checkout instead"
    )
    return parser.parse_args()


def main() -> int:
    """Try the faults: 0 if the tests catch each, 1 if they miss one, 2 where that cannot be told."""
    asked = read_arguments()
    faults = [fault for fault in FAULTS if asked.only in fault.name]
    if not faults:
        print(f"no fault has {asked.only!r} in its name; --list shows all", file=sys.stderr)
        return NO_VERDICT
    if asked.list:
        list_faults(faults)
        return 0
    with tempfile.TemporaryDirectory(prefix="cmrm-mutants-") as place:
        folder = Path(place)
        try:
            copy_tracked_files(asked.tree, folder)
            check_fit(faults, folder)
            return try_all(faults, folder)
        except SetupError as error:
            print(error, file=sys.stderr)
            return NO_VERDICT


if __name__ == "__main__":
    sys.exit(main())
