"""One process for each device of this machine, each with its model loaded once."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import chain
from multiprocessing.queues import Queue
from typing import Any, cast

from prefect.task_runners import ProcessPoolTaskRunner

from flows.runner_workers import Future, Runner, RunnerWorkers
from flows.server.client import show_own_logs
from flows.workers import Advance, Here
from tasks.models import DEVICE_VARIABLE
from tasks.stage import Job, Stage
from tasks.stopping import GRACE, obey_parent


class ProcessWorkers(RunnerWorkers):
    """A process for each device that `list_devices` gives, or this process where it gives one.

    The devices are looked for with the first job: a run that reuses everything has no need of them.
    """

    def __init__(self, list_devices: Callable[[], Sequence[str]]) -> None:
        super().__init__()
        self._list_devices = list_devices
        self._devices: Sequence[str] = ()

    def do(self, stage: Stage[Any], jobs: Iterable[Job], *, advance: Advance) -> Generator[Job]:
        source = iter(jobs)
        for first in source:
            self._devices = self._devices or self._list_devices()
            do = super().do if len(self._devices) > 1 else Here().do
            yield from do(stage, chain([first], source), advance=advance)

    def start(self) -> Runner:
        devices = multiprocessing.get_context("spawn").Queue()
        for device in self._devices:
            devices.put(device)
        runner = ProcessPoolTaskRunner(
            max_workers=len(self._devices),
            initializer=prepare_process,
            initargs=(devices, max(1, (os.cpu_count() or 1) // len(self._devices))),
        )
        return cast(Runner, runner.__enter__())

    def most(self) -> int:
        # None waits inside the pool: what was handed to a process could not be called back from it.
        return len(self._devices)

    def stop_jobs(self, futures: Iterable[Future]) -> None:  # noqa: ARG002 - whole processes are stopped
        children = multiprocessing.active_children()
        for child in children:
            child.terminate()
        end = time.monotonic() + GRACE + 1
        for child in children:
            child.join(max(0.0, end - time.monotonic()))
            if child.is_alive():
                # Python answers no signal while it waits for a device or a disk.
                child.kill()


def prepare_process(devices: Queue[str], threads: int) -> None:
    """Make a new worker process ready: its device, its share of the processors, its end with the run's."""
    obey_parent()
    show_own_logs()
    os.environ[DEVICE_VARIABLE] = devices.get()
    # Read by torch when it is imported; together the processes have no more threads than there are processors.
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def list_devices(device: str, count: int | None) -> list[str]:
    """The devices for a spec's `device`: all of this machine that fit, or `count` processes shared out over them.

    A model that takes `all` leaves none for a second process, unless one is asked for.
    """
    if device == "all":
        return ["auto"] * (count or 1)
    fitting = [device if device not in {"auto", "cuda"} else "cpu"]
    if device in {"auto", "cuda"}:
        import torch

        fitting = [f"cuda:{number}" for number in range(torch.cuda.device_count())] or [
            "cpu" if device == "auto" else device
        ]
    return [fitting[number % len(fitting)] for number in range(count or len(fitting))]
