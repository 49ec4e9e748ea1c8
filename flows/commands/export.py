"""`cmrm export`: write a steered model for other people's engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from cmrm.errors import UserError
from flows.commands.store import DEFAULT_STORE


def export(
    source: str,
    /,
    *,
    to: str,
    output: Annotated[Path, Parameter(alias="-o")],
    model: str | None = None,
    revision: str | None = None,
    arm: str | None = None,
    alpha: Annotated[float | None, Parameter(validator=validators.Number(gte=0))] = None,
    blocks: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    canary_prompts: Path | None = None,
    evaluate: str | None = None,
    push: str | None = None,
    dry_run: bool = False,
    store: Annotated[str, Parameter(env_var="CMRM_STORE")] = DEFAULT_STORE,
    server: str | None = None,
    workers: Annotated[str, Parameter(env_var="CMRM_WORKERS")] = "auto",
) -> None:
    """Write a steered model as a folder for other people's engines, proved and with a canary.

    The source model is run under hooks, the export is written, read again and held against them; the folder gets its
    name only then. `cmrm verify-serving` tells by its canary.json whether a server steers.

    Parameters
    ----------
    source
        Id of a finished run, `latest`, or a file of Δ (.safetensors).
    to
        Format: checkpoint (a transformers folder with the shift as a bias), gguf (a control vector for llama.cpp),
        easysteer or vllm-lens (for vLLM with one of these), peft (a LoRA for transformers), or a format of an installed
        package.
    output
        A new or an empty folder.
    model
        A model folder, a hub id or `organism`. Default: the run's; a run with several needs its label.
    revision
        Revision of a hub id, with a file of Δ. Default: main.
    arm
        Name of the run's intervention, or NAME@α. Default: the one that can be exported.
    alpha
        Strength. Default: the one that the run's report selects, or the only one.
    blocks
        Blocks to steer: last (the same answers as hooks there), upper_half, middle, all, or numbers such as 5,6,7.
        Default: those of the arm.
    dtype
        Dtype to be served: auto (that of the files), float32, bfloat16 or float16.
    device
        Where the models run meanwhile: auto, cpu, cuda, or one GPU such as cuda:1.
    canary_prompts
        A text file of questions, one a line, to choose the canary's prompts from. Default: neutral questions.
    evaluate
        `own`, or a spec: run the run's spec, or that one, on the exported folder, and pair its answers with plain ones
        and with those under hooks. The rates go into the card.
    push
        Upload the export to the Hugging Face hub as OWNER/NAME, private if it is new.
    dry_run
        With --push, list what would be uploaded.
    store
        The store of the run: a folder or an fsspec URL.
    server
        With --evaluate, API URL of a Prefect server; see `cmrm run --help`.
    workers
        With --evaluate, where its jobs run; see `cmrm run --help`.
    """
    from rich.console import Console
    from rich.text import Text

    from flows.export.evaluation_table import tabulate
    from flows.export.export import EvaluationWish
    from flows.export.export import export as write
    from flows.export.push import check_repository, list_upload
    from flows.export.push import push as upload
    from flows.export.source import Asked
    from flows.terminal.safe_text import show_safely

    console = Console()

    def say(text: str) -> None:
        console.print(Text(show_safely(text)))

    if push is not None:
        check_repository(push)
    elif dry_run:
        raise UserError("--dry-run lists what --push would upload; give --push OWNER/NAME.")
    wish = None if evaluate is None else EvaluationWish(spec=evaluate, server=server, workers=workers)
    asked = Asked(
        model=model, revision=revision, arm=arm, alpha=alpha, blocks=blocks, dtype=dtype, device=device
    )
    made = write(
        source,
        asked,
        to=to,
        output=output,
        store=store,
        prompts=canary_prompts,
        wish=wish,
        say=say,
    )
    for line in (*made.exported.written.notes, *made.exported.proofs):
        say(f"  {line}")
    if made.evaluation is not None:
        console.print(tabulate(made.evaluation))
        say(f"{made.evaluation.equal:,} of {made.evaluation.answers:,} answers equal those under hooks.")
    console.print(Text(f"Exported: {output}"), soft_wrap=True)
    if push is not None and dry_run:
        say(f"Would be uploaded to {push}:")
        for name, size in list_upload(output):
            say(f"  {size:>15,}  {name}")
    elif push is not None:
        upload(output, push, say=say)
