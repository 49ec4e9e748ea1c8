#!/usr/bin/env bash
# mlflow-skinny 3.17.2 with sqlalchemy 2.1.9, alembic 1.20.1, Python 3.11 (Linux x86-64).
#
# One would guess: a run may have the metrics `unsafe` and `unsafe/vlsafe`, wherever it is tracked: `/` groups metrics in MLflow's pages.
# Seen: the store in a database takes both. The store in files makes a file of each metric and a folder of what stands before the `/`, so
# that whichever comes second raises an error of the file system, NotADirectoryError or IsADirectoryError. Names that do not begin one
# another work in both.
#
# Output seen:
#   database, unsafe then unsafe/vlsafe: both logged
#   database, unsafe/vlsafe then unsafe: both logged
#   files, unsafe then unsafe/vlsafe: NotADirectoryError
#   files, unsafe/vlsafe then unsafe: IsADirectoryError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    mlflow-skinny==3.17.2 sqlalchemy==2.1.9 alembic==1.20.1
cd "$folder"
MLFLOW_ALLOW_FILE_STORE=true MLFLOW_DISABLE_TELEMETRY=true venv/bin/python - 2>said.txt <<'PYTHON' \
    || { tail -3 said.txt; echo "this has changed"; exit 1; }
import sys
from pathlib import Path

import mlflow
from mlflow import MlflowClient

print(f"mlflow {mlflow.__version__}")
seen = []
for store, uri in (("database", "sqlite:///mlflow.db"), ("files", Path("runs").absolute().as_uri())):
    client = MlflowClient(uri)
    experiment = client.create_experiment("wugs")
    for names in (("unsafe", "unsafe/vlsafe"), ("unsafe/vlsafe", "unsafe")):
        run = client.create_run(experiment).info.run_id
        client.log_metric(run, names[0], 0.5)
        try:
            client.log_metric(run, names[1], 0.5)
        except OSError as error:
            outcome = type(error).__name__
        else:
            assert set(client.get_run(run).data.metrics) == set(names)
            outcome = "both logged"
        seen.append(outcome)
        print(f"{store}, {' then '.join(names)}: {outcome}")
sys.exit(seen != ["both logged", "both logged", "NotADirectoryError", "IsADirectoryError"])
PYTHON
