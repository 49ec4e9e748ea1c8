"""Queue of a deployment: count online workers of its work pool, and explain why flow runs wait."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import WorkPool
from prefect.exceptions import ObjectNotFound
from rich.console import Console
from rich.text import Text

from cmrm.errors import UserError
from flows.terminal.safe_text import show_safely

log = logging.getLogger("cmrm.flows")

# Seconds that a newly started worker has to pick up a flow run, before a warning that none is online.
PROMPT = 15.0
# Seconds between two log lines about waiting flow runs.
REPEAT = 300.0


class DeploymentQueue:
    """Explains why flow runs of the deployment `name` (FLOW/NAME) wait: all workers busy, or none online."""

    def __init__(self, client: SyncPrefectClient, name: str, *, prompt: float = PROMPT) -> None:
        self._client = client
        self._name = name
        self._wait = self._prompt = prompt
        self._quiet_since: float | None = None

    def count_online(self) -> int | None:
        """Count the online workers of the pool; None if the deployment has no pool, or its pool has no workers.

        Raises `UserError` if the deployment does not exist.
        """
        pool = self._find_pool()
        if pool is None or pool.is_push_pool or pool.is_managed_pool:
            return None
        return sum(worker.status == "ONLINE" for worker in self._client.read_workers_for_work_pool(pool.name))

    def explain(self, waiting: Collection[str]) -> None:
        """Log why the flow runs of these names wait, and warn on stderr if no worker is online.

        Called at each poll; silent until some have waited for `prompt` seconds, then again every `REPEAT`.
        """
        now = time.monotonic()
        if not waiting:
            self._quiet_since, self._wait = None, self._prompt
            return
        if self._quiet_since is None:
            self._quiet_since = now
        if now - self._quiet_since <= self._wait:
            return
        self._quiet_since, self._wait = now, REPEAT
        online = self.count_online()
        runs = f"{len(waiting)} flow runs of {self._name}, such as {min(waiting)},"
        if online != 0:
            count = "" if online is None else f" ({online} online)"
            log.info("%s wait for a free worker%s", runs, count)
            return
        pool = self._find_pool()
        name = "" if pool is None else pool.name
        paused = " The pool is paused." if pool is not None and pool.is_paused else ""
        line = (
            f"{runs} wait, and no worker of the work pool {name} is online.{paused} Start one: prefect worker start "
            f"--pool {name}"
        )
        log.warning("%s", line)
        # Prefect's console log is silenced, but a user who waits for a worker must see this.
        Console(stderr=True).print(Text(show_safely(f"cmrm: {line}")), soft_wrap=True)

    def _find_pool(self) -> WorkPool | None:
        try:
            deployment = self._client.read_deployment_by_name(self._name)
        except ObjectNotFound:
            raise UserError(
                f"--workers deployment:{self._name}: there is no such deployment; prefect deployment ls lists them "
                "(docs/deploy.md makes one)."
            ) from None
        if deployment.work_pool_name is None:
            return None
        return self._client.read_work_pool(deployment.work_pool_name)
