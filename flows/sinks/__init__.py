"""Sinks: where teams keep their runs, one file a kind; a package adds its own by an entry point in `cmrm.sinks`.

Imports `flows.report` and below.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType

from cmrm.plugins import Plugins
from flows.sinks.sink import LoggedFigure, LoggedRun, Sink

__all__ = ["SINKS", "LoggedFigure", "LoggedRun", "Sink", "make_sinks"]

SINKS: Plugins[Sink] = Plugins(
    word="sink",
    group="cmrm.sinks",
    base=Sink,  # type: ignore[type-abstract] # compared with, never constructed
    own=MappingProxyType({"mlflow": "flows.sinks.mlflow:MlflowSink", "wandb": "flows.sinks.wandb:WandbSink"}),
)


def make_sinks(kinds: Iterable[str]) -> dict[str, Sink]:
    """Make the sinks of these kinds, each once, ready to log; raises `UserError` for one that is not."""
    made = {kind: SINKS.make(kind) for kind in kinds}
    for sink in made.values():
        sink.check()
    return made
