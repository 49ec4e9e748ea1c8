"""Sinks of a user's own package, found by entry point, which tell what they were given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.sinks import LoggedRun, Sink

# What the sinks of this process were given.
LOGGED: list[LoggedRun] = []


LINES = tuple(f"{kind} = tests.users_sinks:{kind.title()}Sink" for kind in ("keeping", "failing"))


def install(folder: Path, *, lines: Sequence[str] = LINES) -> Path:
    """Make what pip makes of the package: a folder that, on the path, names the entry points."""
    made = folder / "users_sinks-1.0.dist-info"
    made.mkdir(parents=True)
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: users-sinks\nVersion: 1.0\n")
    (made / "entry_points.txt").write_text("\n".join(["[cmrm.sinks]", *lines, ""]))
    return folder


@dataclass(frozen=True, kw_only=True)
class KeepingSink(Sink):
    """Keeps what it is given."""

    def check(self) -> None:
        """Do nothing: it is always ready."""

    def log(self, run: LoggedRun) -> str:
        LOGGED.append(run)
        return f"here, {run.run_id}"


@dataclass(frozen=True, kw_only=True)
class FailingSink(KeepingSink):
    """Fails as a library does that was given a key that its server does not know."""

    key: str = "sk-canary-5d1f"

    def log(self, run: LoggedRun) -> str:
        # Longer than a message shows: what is left out of its middle begins within the key.
        raise ConnectionError(f"{'401 ' * 18}{self.key} may not log {run.run_id}{' again' * 30}\nat a host")
