#!/usr/bin/env bash
# prefect 3.8.8 with pydantic 2.14.3, Python 3.11.
#
# One would guess: @flow(validate_parameters=False) takes a function whose parameters have any annotation, since they
# are not to be validated; and typing.Protocol, which mypy accepts there, is an annotation like any other.
# Seen: the flow cannot even be made. Prefect builds a pydantic schema of the signature all the same, and a protocol
# that is not @runtime_checkable cannot be asked isinstance(): pydantic_core.SchemaError while the module is imported.
# With @runtime_checkable, or with a Callable that makes the object, it can.
#
# Output seen:
#   protocol: SchemaError
#   runtime-checkable protocol: made
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    prefect==3.8.8 pydantic==2.14.3 "fastapi<0.140" "sqlalchemy<2.1"
export PREFECT_HOME="$folder/prefect" DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from typing import Protocol, runtime_checkable

import prefect
from prefect import flow


class Worker(Protocol):
    def work(self) -> None: ...


@runtime_checkable
class CheckableWorker(Protocol):
    def work(self) -> None: ...


def use(worker: Worker) -> None: ...


def use_checkable(worker: CheckableWorker) -> None: ...


def make(function) -> str:
    try:
        flow(validate_parameters=False)(function)
    except Exception as error:
        return type(error).__name__
    return "made"


seen = make(use), make(use_checkable)
print(f"prefect {prefect.__version__}")
print(f"protocol: {seen[0]}")
print(f"runtime-checkable protocol: {seen[1]}")
sys.exit(0 if seen == ("SchemaError", "made") else "this has changed")
PYTHON
