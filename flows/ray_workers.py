"""A Ray cluster does the jobs, through Prefect's task runner for Ray; GPUs are resources that Ray gives out."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, cast
from urllib.parse import urlsplit

from cmrm.errors import UserError
from flows.runner_workers import Future, Runner, RunnerWorkers
from tasks.stopping import GRACE

# Seconds for a cluster to take a call.
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

        self._refuse_silence()
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address == "auto" and "RAY_ADDRESS" not in os.environ:
            settings["include_dashboard"] = False
        runner = RayTaskRunner(address=self._address, init_kwargs=settings)
        try:
            runner.__enter__()
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise self._explain(str(error).splitlines()[0]) from error
        self._refuse_unreachable_server()
        return cast(Runner, runner)

    def most(self) -> int:
        # One more each, so that no worker waits and a cluster that can grow sees why it should.
        return 2 * max(1, self._count("GPU") if self._wants_gpu() else self._count("CPU"))

    def sending(self) -> AbstractContextManager[Any]:
        from prefect_ray.context import remote_options

        # Ray would end a worker with its first GPU job, and its loaded model with it; and would itself try again,
        # unseen, what a dying worker had.
        options = {"num_cpus": 1, "num_gpus": int(self._wants_gpu()), "max_calls": 0, "max_retries": 0}
        return cast("AbstractContextManager[Any]", remote_options(**options))

    def stop_jobs(self, _futures: Iterable[Future]) -> None:
        import ray

        references = [future.wrapped_future for future in _futures]  # type: ignore[attr-defined] # Ray's have it
        for reference in references:
            ray.cancel(reference)
        if references:
            ray.wait(references, num_returns=len(references), timeout=GRACE)

    def _refuse_silence(self) -> None:
        """Raise `UserError` where nobody listens: Ray itself would try for minutes."""
        place = urlsplit(self._address if "://" in self._address else f"//{self._address}")
        if place.port is None:
            return
        try:
            socket.create_connection((place.hostname, place.port), timeout=PATIENCE).close()
        except OSError as error:
            raise self._explain(error.strerror or str(error)) from error

    def _explain(self, reason: str) -> UserError:
        return UserError(
            f"--workers ray:{self._address}: no Ray cluster answers there ({reason}). "
            "Start one (ray start --head), correct the address, or use ray:auto for one on this machine."
        )

    def _wants_gpu(self) -> bool:
        return self._device != "cpu" and self._count("GPU") > 0

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
    """Workers of a Ray cluster; `UserError` where its packages are not installed."""
    try:
        import prefect_ray  # noqa: F401 - is it there?
    except ImportError:
        raise UserError("--workers ray: needs packages of its own: pip install 'cmrm[ray]'") from None
    return RayWorkers(address, device=device, server=server)
