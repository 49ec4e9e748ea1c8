"""MLflow: a finished run as an MLflow run that has its id as a tag, with its tables, figures and rates."""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cmrm.errors import UserError
from flows.server.client import show_url
from flows.sinks.sink import LoggedRun, Sink

EXPERIMENT = "cmrm"
# The tag by which a run is found again.
TAG = "cmrm.run"
# Most metrics and params of a request, and most characters of a param.
MOST_METRICS = 900
MOST_PARAMS = 100
MOST_TEXT = 6000


@dataclass(frozen=True, kw_only=True)
class MlflowSink(Sink):
    """Logs to the experiment MLFLOW_EXPERIMENT_NAME (`cmrm`) at MLFLOW_TRACKING_URI, as MLflow's own client does."""

    def check(self) -> None:
        _import()

    def check_lasting(self) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        file = _find_database(uri)
        if not uri or (file is not None and not file.is_absolute()):
            raise UserError(
                "mlflow: a worker deletes the folder that the run would be kept in; set MLFLOW_TRACKING_URI where the "
                "worker runs, such as http://mlflow.internal:5000 or sqlite:////srv/mlflow.db."
            )

    def log(self, run: LoggedRun) -> str:
        client = _import().MlflowClient()
        experiment = _find_experiment(client)
        tags = {
            TAG: run.run_id,
            "cmrm.store": run.store,
            "cmrm.report": run.report,
            "mlflow.note.content": run.headline,
            "mlflow.runName": run.name,
            "mlflow.source.name": "cmrm",
        }
        found = client.search_runs([experiment], f"tags.`{TAG}` = '{run.run_id}'", max_results=1)
        shown = (
            found[0]
            if found
            else client.create_run(experiment, start_time=_milliseconds(run.started), tags=tags)
        )
        shown_id = shown.info.run_id
        try:
            self._log(client, run, shown, tags)
        except BaseException:
            client.set_terminated(shown_id, "FAILED")
            raise
        client.set_terminated(shown_id, "FINISHED", end_time=_milliseconds(run.finished))
        uri = show_url(str(client.tracking_uri))
        path = f"#/experiments/{experiment}/runs/{shown_id}"
        return f"{uri.rstrip('/')}/{path}" if uri.startswith("http") else f"run {shown_id} at {uri}"

    def _log(self, client: Any, run: LoggedRun, shown: Any, tags: dict[str, str]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        shown_id = shown.info.run_id
        known = shown.data
        # MLflow refuses to change a param, and counts a metric that is logged again as its next value.
        params = [
            Param(name, text[:MOST_TEXT]) for name, text in run.params.items() if name not in known.params
        ]
        metrics = [
            Metric(name, value, _milliseconds(run.finished), 0)
            for name, value in run.metrics.items()
            if known.metrics.get(name) != value
        ]
        client.log_batch(shown_id, tags=[RunTag(name, text) for name, text in tags.items()])
        for first in range(0, len(params), MOST_PARAMS):
            client.log_batch(shown_id, params=params[first : first + MOST_PARAMS])
        for first in range(0, len(metrics), MOST_METRICS):
            client.log_batch(shown_id, metrics=metrics[first : first + MOST_METRICS])
        with tempfile.TemporaryDirectory() as folder:
            for path, data in run.list_files():
                place = Path(folder) / path
                place.parent.mkdir(exist_ok=True)
                place.write_bytes(data)
            client.log_artifacts(shown_id, folder)


def _import() -> Any:
    # MLflow takes DO_NOT_TRACK=true alone for a no. The user's own setting wins.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        import mlflow
    except ImportError:
        raise UserError("mlflow: the package is missing: pip install 'cmrm[mlflow]'.") from None
    # It tells of each step of making a new database.
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return mlflow


def _find_experiment(client: Any) -> str:
    """Find the experiment by MLflow's own variables; one of that name is made if there is none."""
    if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return given
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    file = _find_database(str(client.tracking_uri))
    # MLflow's own choice is the working folder, which may be another one next time, or gone.
    artifacts = None if file is None else str(file.absolute().parent / "mlruns" / quote(name, safe=""))
    return str(client.create_experiment(name, artifact_location=artifacts))


def _find_database(uri: str) -> Path | None:
    """The file of an SQLite database; None for what is none."""
    if not uri.startswith("sqlite:"):
        return None
    from sqlalchemy.engine import make_url

    return Path(make_url(uri).database or "")


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)
