"""Choice of workers for `--workers`: this process, one process per device, a Ray cluster, or a Prefect work pool."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable
from types import TracebackType
from typing import Any, Protocol, Self

from cmrm.errors import UserError
from flows.spec.secrets import refuse_credentials
from tasks.core.progress import listening
from tasks.core.stage import Job, Stage

Advance = Callable[[int], None]
# Give up after this many consecutive worker crashes with no completed job.
MOST_CRASHES = 5


class Workers(Protocol):
    """Runs jobs that are not committed yet; entered once for all stages of a run."""

    def __enter__(self) -> Self:
        """Get ready; expensive set-up waits for the first job."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release everything; after an error, stop running jobs."""

    def do(self, stage: Stage[Any], jobs: Iterable[Job], *, advance: Advance) -> Generator[Job]:
        """Run jobs and yield each when it is committed, in any order; `advance` is called with finished rows.

        Raises what a job raised. A worker crash is not an error of the job: it is retried on another worker.
        """


class InProcessWorkers:
    """Runs jobs in this process, one after the other."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: there is nothing to release."""

    def do(self, stage: Stage[Any], jobs: Iterable[Job], *, advance: Advance) -> Generator[Job]:
        for job in jobs:
            with listening(advance):
                stage.run(job)
            yield job


def choose_workers(text: str, *, devices: Collection[str], server: str | None) -> Workers:
    """Make the workers that `--workers` names: `auto`, a number of processes, `ray:ADDRESS` or `deployment:NAME`.

    `devices` are those that the models ask for, `all` for a model with a device map; `server` is the URL of the user's
    Prefect server, None for an embedded one. Raises `UserError` for anything else and for unavailable workers.
    """
    # A model that asks for a particular device gets it in every process.
    device = next((one for one in ("all", "auto", "cuda") if one in devices), min(devices))
    kind, target = _read_choice(text, server=server)
    if kind == "ray":
        from flows.workers.ray import make_ray_workers

        return make_ray_workers(target or "auto", device=device, server=server)
    if kind == "deployment":
        from flows.workers.deployment import DeploymentWorkers

        return DeploymentWorkers(target)
    from flows.workers.process import ProcessWorkers, list_devices

    return ProcessWorkers(lambda: list_devices(device, None if text == "auto" else int(text)))


def check_choice(text: str, *, server: str | None) -> None:
    """Raise `UserError` for an invalid `--workers`, without connecting to anything."""
    _read_choice(text, server=server)


def _read_choice(text: str, *, server: str | None) -> tuple[str, str]:
    refuse_credentials(text, where="--workers", fix="leave it out")
    kind, _, target = text.partition(":")
    if kind == "ray":
        return kind, target
    if kind == "deployment" and target.count("/") == 1:
        if server is None:
            raise UserError(
                "--workers deployment: needs a Prefect server that the workers share; give its URL as --server or "
                "PREFECT_API_URL."
            )
        return kind, target
    if text != "auto" and not (text.isdecimal() and int(text) > 0):
        raise UserError(
            f"--workers: {text!r} is none of auto, a number of processes above 0, ray:ADDRESS (or ray:auto), "
            "and deployment:FLOW/NAME."
        )
    return "processes", text
