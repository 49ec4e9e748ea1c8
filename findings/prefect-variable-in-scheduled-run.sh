#!/usr/bin/env bash
# prefect 3.8.8 with fastapi 0.139.2, sqlalchemy 2.0.58, Python 3.11 (Linux x86-64).
#
# One would guess: a deployment's parameter `{"__prefect_kind": "workspace_variable", "variable_name": NAME}`, Prefect's own reference to a
# variable, is the variable's value in each flow run of the deployment.
# Seen: it is in a run that is asked for; a run that the schedule makes is handed the object itself; and once the deployment is updated with
# it, the deployment holds the value of that moment, for good.
#
# Output seen:
#   deployment as made: {'__prefect_kind': 'workspace_variable', 'variable_name': 'size'}
#   run asked for: 3
#   run of the schedule: {'__prefect_kind': 'workspace_variable', 'variable_name': 'size'}
#   deployment as updated: 3
set -euo pipefail
folder=$(mktemp -d)
server=
trap '[[ -z $server ]] || { kill "$server"; wait "$server" || true; }; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check prefect==3.8.8 fastapi==0.139.2 sqlalchemy==2.0.58
cd "$folder"
port=$(python3 -c 'import socket; one = socket.socket(); one.bind(("127.0.0.1", 0)); print(one.getsockname()[1])')
export PREFECT_HOME=$folder/home PREFECT_API_URL=http://127.0.0.1:$port/api PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1
export PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS=2
venv/bin/prefect server start --no-ui --port "$port" > server.txt 2>&1 &
server=$!
venv/bin/python - <<'PYTHON' || { echo "this has changed"; exit 1; }
import asyncio
import sys
from datetime import timedelta

import prefect
from prefect import flow, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.variables import Variable

SIZE = {"__prefect_kind": "workspace_variable", "variable_name": "size"}


@flow
def measure(size): ...


async def wait_for(ask):
    """Ask each second, a minute long, until there is an answer."""
    for _ in range(60):
        if found := await ask():
            return found
        await asyncio.sleep(1)
    sys.exit("no answer within a minute")


async def look() -> dict:
    async with get_client() as client:

        async def answers():
            return await client.api_healthcheck() is None

        async def scheduled():
            return [run for run in await client.read_flow_runs() if run.auto_scheduled]

        await wait_for(answers)
        await Variable.aset("size", 3)
        hourly = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(hours=1)), active=True)
        made = await client.create_deployment(
            await client.create_flow(measure), name="hourly", parameters={"size": SIZE}, schedules=[hourly]
        )
        seen = {"deployment as made": await client.read_deployment(made)}
        seen["run asked for"] = await client.create_flow_run_from_deployment(made)
        seen["run of the schedule"] = (await wait_for(scheduled))[0]
        await client.update_deployment(made, DeploymentUpdate(parameters={"size": SIZE}))
        seen["deployment as updated"] = await client.read_deployment(made)
        return {what: one.parameters["size"] for what, one in seen.items()}


print(f"prefect {prefect.__version__}")
seen = asyncio.run(look())
for what, size in seen.items():
    print(f"{what}: {size}")
sys.exit([*seen.values()] != [SIZE, 3, SIZE, 3])
PYTHON
