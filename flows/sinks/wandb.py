"""Weights & Biases: a finished run as a W&B run of the same id, with its tables, figures and rates."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from PIL import Image

from cmrm.errors import UserError
from flows.report.document import ReportTable
from flows.sinks.sink import LoggedRun, Sink

if TYPE_CHECKING:
    import wandb

PROJECT = "cmrm"
ARTIFACT = "cmrm-report"
# Variables of which one says who is logging.
KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
KEPT = {"offline", "dryrun"}
UNSENT = KEPT | {"disabled"}
# What W&B would keep of the machine and the command besides, or tell its makers; the user's own settings win.
QUIET = {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
BARE: Mapping[str, Any] = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "host": "",
    "save_code": False,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}


@dataclass(frozen=True, kw_only=True)
class WandbSink(Sink):
    """Logs to the project WANDB_PROJECT (`cmrm`) of WANDB_ENTITY; WANDB_MODE=offline keeps it on the disk."""

    def check(self) -> None:
        settings = _import().setup().settings
        if os.environ.get("WANDB_MODE", settings.mode) not in UNSENT and not _has_key(settings):
            raise UserError(
                "wandb: nobody is logged in at "
                f"{settings.base_url}; set WANDB_API_KEY, run wandb login, or set WANDB_MODE=offline."
            )

    def check_lasting(self) -> None:
        mode = os.environ.get("WANDB_MODE", _import().setup().settings.mode)
        if mode in KEPT and not Path(os.environ.get("WANDB_DIR", "")).is_absolute():
            raise UserError(
                "wandb: a worker deletes the folder that an offline run would be kept in; set WANDB_DIR where the "
                "worker runs, such as /srv/wandb."
            )

    def log(self, run: LoggedRun) -> str:
        wandb = _import()
        shown = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            # What the same run was logged under; `allow` goes on with it.
            id=run.run_id,
            resume="allow",
            # A program that logs a run of its own keeps that one.
            reinit="create_new",
            name=run.name,
            notes=run.headline,
            job_type="cmrm",
            config={**run.params, "store": run.store, "report": run.report},
            mode=os.environ.get("WANDB_MODE"),
            dir=os.environ.get("WANDB_DIR"),
            settings=wandb.Settings(**BARE),
        )
        try:
            # One step: W&B ignores a step that it has, so a run that is logged again has no second one.
            shown.log(
                {
                    **run.metrics,
                    **{f"tables/{table.name}": _make_table(wandb, table) for table in run.tables},
                    **{
                        f"figures/{figure.name}": wandb.Image(
                            Image.open(io.BytesIO(figure.files[".png"])), caption=figure.caption
                        )
                        for figure in run.figures
                        if ".png" in figure.files
                    },
                },
                step=0,
            )
            shown.summary.update(dict(run.metrics))
            artifact = wandb.Artifact(f"{ARTIFACT}-{run.run_id}", type=ARTIFACT)
            for path, data in run.list_files():
                with artifact.new_file(path, mode="wb") as file:
                    file.write(data)
            shown.log_artifact(artifact)
        except BaseException:
            shown.finish(exit_code=1)
            raise
        shown.finish()
        return str(shown.url) if not shown.offline else f"{Path(shown.dir).parent} (wandb sync sends it)"


def _import() -> Any:
    """Import W&B, which reads its variables as it is imported."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import wandb
    except ImportError:
        raise UserError("wandb: the package is missing: pip install 'cmrm[wandb]'.") from None
    return wandb


def _has_key(settings: Any) -> bool:
    """Whether W&B would find a key without asking for one, as nobody may be there to answer."""
    if settings.api_key or any(os.environ.get(name) for name in KEYS):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc(path).authenticators(urlsplit(settings.base_url).hostname or "") is not None
    except (OSError, NetrcParseError):
        return False


def _make_table(wandb: Any, table: ReportTable) -> wandb.Table:
    columns = list(table.records[0]) if table.records else []
    rows = [[record[column] for column in columns] for record in table.records]
    return wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
