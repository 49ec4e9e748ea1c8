"""`cmrm export`: write a steered model for other people's engines, or a finished run for other people's tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

from cmrm.errors import UserError
from flows.commands.store import DEFAULT_STORE
from flows.run_formats import RUN_FORMATS, RunExport, RunOptions, export_run, refuse_run_options

if TYPE_CHECKING:
    from flows.export.export import EvaluationWish
    from flows.export.source import Asked

MODEL_FORMATS = (
    "Of a model: checkpoint (a transformers folder with the shift as a bias), gguf (a control vector for llama.cpp), "
    "easysteer or vllm-lens (for vLLM with one of these), peft (a LoRA for transformers), onnx (the language model as "
    "a graph), or a format of an installed package."
)
RUNS = ", ".join(f"{name} ({one.summary})" for name, one in RUN_FORMATS.items())
FORMATS_HELP = f"{MODEL_FORMATS} Of a run: {RUNS}."


def export(
    source: str,
    /,
    *,
    to: Annotated[str, Parameter(help=FORMATS_HELP)],
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
    sweep: str | None = None,
    push: str | None = None,
    dry_run: bool = False,
    store: Annotated[str, Parameter(env_var="CMRM_STORE")] = DEFAULT_STORE,
    server: str | None = None,
    workers: Annotated[str, Parameter(env_var="CMRM_WORKERS")] = "auto",
    options: Annotated[RunOptions | None, Parameter(name="*")] = None,
) -> None:
    """Write a steered model for other people's engines, or a finished run for other people's tools.

    A steered model is run under hooks, and its export written, read again and held against them; the folder gets its
    name only then. `cmrm verify-serving` tells by its canary.json whether a server steers. A finished run is written
    from the store alone: nothing is answered or judged again.

    Parameters
    ----------
    source
        Id of a finished run, `latest`, or for a model a file of Δ (.safetensors).
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
    sweep
        Strengths such as 0.25,0.5,0.75,1: run the export at each as --evaluate does (default: own), and export at the
        one that the spec's `choice` picks. The rates of all go into the card.
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
    from flows.export.push import check_repository, push_or_list

    if push is not None:
        check_repository(push)
    elif dry_run:
        raise UserError("--dry-run lists what --push would upload; give --push OWNER/NAME.")
    options = options or RunOptions()
    if to in RUN_FORMATS:
        # CMRM_WORKERS may be set for other commands, so --workers is no mistake.
        others: dict[str, object] = {
            "model": model,
            "revision": revision,
            "arm": arm,
            "alpha": alpha,
            "blocks": blocks,
            "dtype": None if dtype == "auto" else dtype,
            "device": None if device == "auto" else device,
            "canary_prompts": canary_prompts,
            "evaluate": evaluate,
            "sweep": sweep,
            "server": server,
        }
        run = RunExport(run=source, store=store, output=output, options=options, push=push, dry_run=dry_run)
        export_run(run, to=to, others=others, say=_say)
        _print_output(output)
        return
    refuse_run_options(options, to=to)
    from flows.export.evaluate import OWN
    from flows.export.export import EvaluationWish
    from flows.export.source import Asked
    from flows.export.sweep import read_strengths

    strengths = () if sweep is None else read_strengths(sweep)
    if strengths and alpha is not None:
        raise UserError("--alpha: --sweep chooses it; leave out one of the two.")
    wish = None
    if evaluate is not None or strengths:
        wish = EvaluationWish(spec=evaluate or OWN, server=server, workers=workers, strengths=strengths)
    asked = Asked(
        model=model, revision=revision, arm=arm, alpha=alpha, blocks=blocks, dtype=dtype, device=device
    )
    _export_model(source, asked, wish, to=to, output=output, store=store, prompts=canary_prompts)
    if push is not None:
        push_or_list(output, push, kind="model", dry_run=dry_run, say=_say)


def _export_model(
    source: str,
    asked: Asked,
    wish: EvaluationWish | None,
    *,
    to: str,
    output: Path,
    store: str,
    prompts: Path | None,
) -> None:
    from rich.console import Console

    from cmrm.export import FORMATS
    from flows.export.evaluation_table import tabulate
    from flows.export.export import export as write

    if to not in (known := FORMATS.list_kinds()):
        raise UserError(
            f"export format {to!r} is unknown; known export formats: {', '.join((*known, *RUN_FORMATS))}."
        )
    made = write(source, asked, to=to, output=output, store=store, prompts=prompts, wish=wish, say=_say)
    for line in (*made.exported.written.notes, *made.exported.proofs):
        _say(f"  {line}")
    if made.evaluation is not None:
        Console().print(tabulate(made.evaluation))
        _say(f"{made.evaluation.equal:,} of {made.evaluation.answers:,} answers equal those under hooks.")
    _print_output(output)


def _say(text: str) -> None:
    from rich.console import Console
    from rich.text import Text

    from flows.terminal.safe_text import show_safely

    Console().print(Text(show_safely(text)))


def _print_output(output: Path) -> None:
    from rich.console import Console
    from rich.text import Text

    Console().print(Text(f"Exported: {output}"), soft_wrap=True)
