"""Run jobs on a Ray cluster through Prefect's task runner for Ray; GPUs are Ray resources."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, cast
from urllib.parse import urlsplit

from cmrm.errors import UserError
from flows.workers.task_runner import Future, Runner, RunnerWorkers, WorkerCrash
from tasks.core.signals import GRACE

# Timeout of a connection to a cluster, in seconds.
PATIENCE = 10.0
LOCAL_HOSTS = {"127.0.0.1", "localhost", "::1", None}


class RayWorkers(RunnerWorkers):
    """Sends jobs to the cluster at `address`, or to one of its own on this machine for `auto`."""

    def __init__(self, address: str, *, device: str, server: str | None) -> None:
        super().__init__()
        self._address = address
        self._device = device
        self._server = server

    def start(self) -> Runner:
        from prefect_ray import RayTaskRunner

        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address == "auto" and "RAY_ADDRESS" not in os.environ:
            settings["include_dashboard"] = False
        runner = RayTaskRunner(address=self._address, init_kwargs=settings)
        try:
            runner.__enter__()
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise self._explain(str(error).splitlines()[0]) from error
        try:
            self._refuse_unreachable_server()
        except UserError as error:
            runner.__exit__(type(error), error, None)
            raise
        return cast(Runner, runner)

    def most(self) -> int:
        # Twice the number of workers, so that none idles and an autoscaler sees pending jobs.
        gpus = self._gpus_of_a_job()
        return 2 * max(1, self._count("GPU") // gpus if gpus else self._count("CPU"))

    def sending(self) -> AbstractContextManager[Any]:
        from prefect_ray.context import remote_options

        # By default Ray ends a worker, and its loaded model, after its first GPU job, and silently retries the jobs
        # of a crashed worker.
        options = {"num_cpus": 1, "num_gpus": self._gpus_of_a_job(), "max_calls": 0, "max_retries": 0}
        return cast("AbstractContextManager[Any]", remote_options(**options))

    def stop_jobs(self, futures: Iterable[Future]) -> None:
        import ray

        references = [future.wrapped_future for future in futures]  # type: ignore[attr-defined] # Ray's have it
        for reference in references:
            ray.cancel(reference)
        if references:
            ray.wait(references, num_returns=len(references), timeout=GRACE)

    def find_crash(self, future: Future) -> WorkerCrash | None:
        import ray

        crash = super().find_crash(future)
        error = future.state.data
        if crash is not None and isinstance(error, ray.exceptions.RayTaskError):
            # The worker is alive, and every other would fail the same way: usually a package is missing.
            raise UserError(
                f"--workers ray: a job could not be started ({str(error).strip().splitlines()[-1]}). Install the same "
                "cmrm on each node, then run the same command again."
            ) from error
        return crash

    def refuse_silence(self) -> None:
        """Raise `UserError` if nothing listens at the address: Ray itself would retry for minutes."""
        try:
            url = urlsplit(self._address if "://" in self._address else f"//{self._address}")
            if url.port is not None:
                socket.create_connection((url.hostname, url.port), timeout=PATIENCE).close()
        except (OSError, ValueError) as error:
            raise self._explain(str(error)) from error

    def _explain(self, reason: str) -> UserError:
        return UserError(
            f"--workers ray:{self._address}: no Ray cluster answers there ({reason}). "
            "Start one (ray start --head), correct the address, or use ray:auto for one on this machine."
        )

    def _gpus_of_a_job(self) -> int:
        import ray

        if self._device == "cpu" or not self._count("GPU"):
            return 0
        if self._device != "all":
            return 1
        # A model with a device map gets all GPUs of the largest node.
        return max(int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"])

    def _count(self, resource: str) -> int:
        import ray

        return int(ray.cluster_resources().get(resource, 0))

    def _refuse_unreachable_server(self) -> None:
        import ray

        hosts = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
        if len(hosts) > 1 and (self._server is None or urlsplit(self._server).hostname in LOCAL_HOSTS):
            raise UserError(
                "--workers ray: the cluster has several machines, whose workers cannot reach a Prefect server that "
                "listens on this one alone. Start one that they can (prefect server start --host 0.0.0.0) and give its "
                "URL as --server or PREFECT_API_URL."
            )


def make_ray_workers(address: str, *, device: str, server: str | None) -> RayWorkers:
    """Make the workers of a Ray cluster; raises `UserError` if Ray is not installed."""
    try:
        import prefect_ray  # noqa: F401 - checks that it is installed
    except ImportError:
        raise UserError("--workers ray: needs extra packages: pip install 'cmrm[ray]'") from None
    workers = RayWorkers(address, device=device, server=server)
    workers.refuse_silence()
    return workers
