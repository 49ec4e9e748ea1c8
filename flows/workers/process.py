"""Worker processes: one per device of this machine, each loading its model once."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import chain
from multiprocessing.queues import Queue
from typing import Any, cast

from prefect.task_runners import ProcessPoolTaskRunner

from flows.server.client import show_own_logs
from flows.workers.base import Advance, InProcessWorkers
from flows.workers.task_runner import Future, Runner, RunnerWorkers
from tasks.core.models import DEVICE_VARIABLE
from tasks.core.signals import GRACE, obey_parent
from tasks.core.stage import Job, Stage


class ProcessWorkers(RunnerWorkers):
    """One process per device that `list_devices` returns, or this process if it returns one.

    Devices are listed at the first job: a run that reuses everything needs none.
    """

    def __init__(self, list_devices: Callable[[], Sequence[str]]) -> None:
        super().__init__()
        self._list_devices = list_devices
        self._devices: Sequence[str] = ()

    def do(self, stage: Stage[Any], jobs: Iterable[Job], *, advance: Advance) -> Generator[Job]:
        source = iter(jobs)
        for first in source:
            self._devices = self._devices or self._list_devices()
            do = super().do if len(self._devices) > 1 else InProcessWorkers().do
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
        # No job is queued inside the pool, where it could not be cancelled.
        return len(self._devices)

    def stop_jobs(self, futures: Iterable[Future]) -> None:  # noqa: ARG002 - whole processes are stopped
        children = multiprocessing.active_children()
        for child in children:
            child.terminate()
        end = time.monotonic() + GRACE + 1
        for child in children:
            child.join(max(0.0, end - time.monotonic()))
            if child.is_alive():
                # Python handles no signal while it is blocked on a device or a disk.
                child.kill()


def prepare_process(devices: Queue[str], threads: int) -> None:
    """Initialize a worker process: its device, its number of threads, its exit with the parent."""
    obey_parent()
    show_own_logs()
    os.environ[DEVICE_VARIABLE] = devices.get()
    # Read by torch at import; all processes together have no more threads than there are CPUs.
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def list_devices(device: str, count: int | None) -> list[str]:
    """List a device per worker process for a spec's `device`: all matching ones, or `count` processes spread over them.

    A model on `all` devices gets one process, unless `count` asks for more.
    """
    if device == "all":
        return ["auto"] * (count or 1)
    matching = [device if device not in {"auto", "cuda"} else "cpu"]
    if device in {"auto", "cuda"}:
        import torch

        matching = [f"cuda:{number}" for number in range(torch.cuda.device_count())] or [
            "cpu" if device == "auto" else device
        ]
    return [matching[number % len(matching)] for number in range(count or len(matching))]
