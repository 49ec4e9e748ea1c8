"""Who does the jobs of a run: this process, a process for each device, a Ray cluster, or a Prefect work pool."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable
from types import TracebackType
from typing import Any, Protocol, Self

from cmrm.errors import UserError
from tasks.progress import listening
from tasks.stage import Job, Stage

Advance = Callable[[int], None]
# Deaths in a row, without a job finished between them, after which the jobs themselves are held to be the cause.
MOST_DEATHS = 5


class Workers(Protocol):
    """Does jobs that are not committed yet, and is entered once for all stages of a run."""

    def __enter__(self) -> Self:
        """Get ready; what is dear waits until there is a job."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of everything; after an error, what is under way is told to stop."""

    def do(self, stage: Stage[Any], jobs: Iterable[Job], *, advance: Advance) -> Generator[Job]:
        """Do units of work and yield each when it is committed, in any order; `advance` is told of finished rows.

        Raises what a job raised. A worker's death is no error of the job: it is given to another one.
        """


class Here:
    """This process does one job after the other."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing behind."""

    def do(self, stage: Stage[Any], jobs: Iterable[Job], *, advance: Advance) -> Generator[Job]:
        for job in jobs:
            with listening(advance):
                stage.run(job)
            yield job


def choose_workers(text: str, *, devices: Collection[str], server: str | None) -> Workers:
    """The workers that `--workers` names: `auto`, a number of processes, `ray:ADDRESS` or `deployment:NAME`.

    `devices` are those that the spec's models ask for, `all` for one that is spread over a machine's; `server` is the
    URL of the user's Prefect server, None for an embedded one. Raises `UserError` for anything else, and for what is
    not there.
    """
    # A model that asks for one device in particular is given it, in whatever process.
    device = next((one for one in ("all", "auto", "cuda") if one in devices), min(devices))
    kind, place = _read_choice(text, server=server)
    if kind == "ray":
        from flows.ray_workers import make_ray_workers

        return make_ray_workers(place or "auto", device=device, server=server)
    if kind == "deployment":
        from flows.deployment_workers import DeploymentWorkers

        return DeploymentWorkers(place)
    from flows.process_workers import ProcessWorkers, list_devices

    return ProcessWorkers(lambda: list_devices(device, None if text == "auto" else int(text)))


def check_choice(text: str, *, server: str | None) -> None:
    """Raise `UserError` for a `--workers` that names none, without looking for what it names."""
    _read_choice(text, server=server)


def _read_choice(text: str, *, server: str | None) -> tuple[str, str]:
    kind, _, place = text.partition(":")
    if kind == "ray":
        return kind, place
    if kind == "deployment" and place.count("/") == 1:
        if server is None:
            raise UserError(
                "--workers deployment: needs a Prefect server that the workers share; give its URL as --server or "
                "PREFECT_API_URL."
            )
        return kind, place
    if text != "auto" and not (text.isdecimal() and int(text) > 0):
        raise UserError(
            f"--workers: {text!r} is none of auto, a number of processes above 0, ray:ADDRESS (or ray:auto), "
            "and deployment:FLOW/NAME."
        )
    return "processes", text
