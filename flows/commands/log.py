"""`cmrm log`: show a finished run in Weights & Biases, MLflow, or another sink."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from cmrm.errors import UserError
from flows.commands.repeatable import Repeatable
from flows.commands.store_place import DEFAULT_STORE, StorePlace
from flows.terminal.safe_text import show_safely
from storage.store import Store


def log(
    run: str = "latest",
    /,
    *,
    to: Repeatable = (),
    store: StorePlace = DEFAULT_STORE,
) -> None:
    """Show a finished run in Weights & Biases or MLflow.

    Its main table, paired changes, figures and rates are logged, with what was run. No question and no answer leaves
    the store. The same run again updates what is there. Where to, and as whom, is said by the variables of W&B
    (WANDB_PROJECT, WANDB_API_KEY, WANDB_MODE, …) and MLflow (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, …).

    Parameters
    ----------
    run
        Id of a finished run, or `latest`.
    to
        wandb, mlflow, or a sink of an installed package; repeatable. Default: those of CMRM_LOG_TO.
    store
        The store of the run: a folder or an fsspec URL.
    """
    from flows.sinks import SINKS, make_sinks
    from flows.sinks.log import choose_kinds, log_run
    from flows.sinks.read import read_run

    kinds = choose_kinds(to)
    if not kinds:
        raise UserError(f"--to: name a sink: {', '.join(SINKS.list_kinds())}.")
    sinks = make_sinks(kinds)
    console = Console()
    for kind, where in log_run(read_run(Store.open(store), run), sinks):
        console.print(Text(show_safely(f"Logged to {kind}: {where}")), soft_wrap=True)
