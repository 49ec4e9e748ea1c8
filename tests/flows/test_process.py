"""A command's process ends as Python's own would, and at once; its imports are searched for garbage rarely."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What a body may do, and must not be lost by it: exit handlers, threads that still work, and what was printed.
BODY = """
import atexit, sys, threading, time
atexit.register(print, "handled")
threading.Thread(target=lambda: (time.sleep(0.2), print("worked"))).start()
print("printed")
{end}
"""
ENDS = ("", "sys.exit(3)", "sys.exit()", "sys.exit('no such file')", "raise ValueError('wrong')")


def run(code: str, *, stdout: int | None = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, stdout=stdout, stderr=subprocess.PIPE, check=False
    )


def in_a_command(body: str) -> str:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f"from flows.process import ended_at_once\nwith ended_at_once():\n{lines}"


@pytest.mark.parametrize("end", ENDS)
def test_the_end_is_that_of_python_itself(end: str) -> None:
    body = BODY.format(end=end)
    plain, command = run(body), run(in_a_command(body))
    assert (command.returncode, command.stdout) == (plain.returncode, plain.stdout)
    assert command.stdout.split() == ["printed", "worked", "handled"]
    assert command.stderr.splitlines()[-1:] == plain.stderr.splitlines()[-1:]


def test_nothing_that_was_imported_is_taken_apart() -> None:
    body = "import os\nclass Last:\n    def __del__(self, write=os.write): write(1, b'taken apart')\nlast = Last()"
    assert run(body).stdout == "taken apart"
    assert run(in_a_command(body)).stdout == ""


def test_a_full_disk_is_reported_as_python_does() -> None:
    with Path("/dev/full").open("w") as full:
        plain = run("print('lost')", stdout=full.fileno())
        command = run(in_a_command("print('lost')"), stdout=full.fileno())
    assert command.returncode == plain.returncode != 0
    assert "No space left on device" in command.stderr


def test_garbage_is_collected_as_usual_once_there_is_work() -> None:
    code = (
        "import gc\nfrom flows.process import collect_as_usual, collect_rarely\n"
        "usual = gc.get_threshold()\ncollect_as_usual()\nassert gc.get_freeze_count() == 0\n"
        "collect_rarely()\nassert gc.get_threshold()[0] > 10_000\n"
        "collect_as_usual()\nassert gc.get_threshold() == usual\nassert gc.get_freeze_count() > 0"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_what_was_imported_for_good_is_in_no_collection_until_that_is_undone() -> None:
    code = (
        "import gc, sys\nfrom flows.process import import_for_good\n"
        "assert 'mailbox' not in sys.modules\nusual = gc.get_threshold()\n"
        "assert import_for_good('mailbox')\n"
        "def searched():\n    return any(one is sys.modules['mailbox'].__dict__ for one in gc.get_objects())\n"
        "assert gc.get_freeze_count() > 0 and not searched()\nassert gc.get_threshold() == usual\n"
        "assert not import_for_good('mailbox')\ngc.unfreeze()\nassert searched()"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
