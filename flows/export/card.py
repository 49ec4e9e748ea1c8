"""The model card of an export: where it comes from, what was proved, how it is served, and what was measured on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData, metadata_load
from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import HTTPError
from yaml import YAMLError

from cmrm.errors import UserError
from cmrm.export.format import ExportFormat, Written
from cmrm.export.request import ExportRequest
from cmrm.untrusted.printable import show
from flows.export.evaluation_table import NAMES
from flows.export.sweep_table import write_sweep
from flows.report.number_format import write_change, write_value
from flows.report.writers.markdown import escape
from tasks.export.evaluation import Evaluation, Sweep

SOURCE_CARD = "README.md"
TASK = "image-text-to-text"
# Of an export that takes no images.
TEXT_TASK = "text-generation"
UNKNOWN = {"license": "other", "license_name": "as-the-base-model"}


def write_card(
    request: ExportRequest,
    chosen: ExportFormat,
    written: Written,
    proofs: Sequence[str],
    *,
    name: str,
    evaluation: Evaluation | None = None,
    sweep: Sweep | None = None,
) -> str:
    """Write the card of an export named `name`: YAML front matter and Markdown."""
    hub = not request.model.revision.startswith("sha256:")
    data = ModelCardData(
        **read_licence(request),
        base_model=request.model.id if hub else None,
        base_model_relation="finetune" if hub else None,
        library_name=written.library,
        pipeline_tag=TASK if chosen.takes_images else TEXT_TASK,
        tags=["cmrm", *written.tags],
        model_name=None if evaluation is None else name,
        eval_results=None if evaluation is None else _list_results(evaluation),
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {escape(name)}",
        _introduce(request, chosen),
        _list("What was written", written.notes),
        _list("What was proved before this folder got its name", proofs),
        "" if evaluation is None else _tabulate(evaluation),
        "" if sweep is None else write_sweep(sweep),
        f"## Serving\n\n{written.serving.strip()}",
        _describe_origin(request),
        _describe_licence(request),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def read_licence(request: ExportRequest) -> dict[str, Any]:
    """Read the source's licence from its card, in its folder or on the hub; `other` where it says none."""
    found = _read_source_card(request)
    licence = found.get("license")
    if not isinstance(licence, str):
        return dict(UNKNOWN)
    named = {key: str(found[key]) for key in ("license_name", "license_link") if found.get(key)}
    return {"license": licence, **named}


def _read_source_card(request: ExportRequest) -> Mapping[str, Any]:
    path = request.model.folder / SOURCE_CARD
    try:
        if not path.is_file() and not request.model.revision.startswith("sha256:") and not is_offline_mode():
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(request.model.id, SOURCE_CARD, revision=request.model.revision))
        return (metadata_load(path) if path.is_file() else None) or {}
    except (HTTPError, OSError, ValueError, RecursionError, YAMLError, UserError):
        # A card that cannot be had, or whose front matter is damaged, says nothing.
        return {}


def describe_effect(request: ExportRequest, chosen: ExportFormat) -> str:
    """Say whether serving the export gives the answers of the intervention that was measured."""
    return "\n\n".join(filter(None, (_describe_scope(request, chosen), _describe_unanswered(request))))


def _describe_unanswered(request: ExportRequest) -> str:
    """Say which of strength and blocks the run has no answers under; '' if it has under both."""
    shift, origin = request.shift, request.origin
    others = []
    if origin.answered_at and shift.alpha not in origin.answered_at:
        strengths = ", ".join(f"{one:g}" for one in sorted(origin.answered_at))
        others.append(f"α = {shift.alpha:g} (it has answers at α = {strengths})")
    if origin.answered_blocks and shift.blocks != origin.answered_blocks:
        others.append(
            f"{_name_blocks(shift.blocks)} (it has answers at {_name_blocks(origin.answered_blocks)})"
        )
    if not others:
        return ""
    return (
        f"The run that Δ is from has no answers under this arm at {' and at '.join(others)}: only an evaluation of "
        "this export says what it does."
    )


def _describe_scope(request: ExportRequest, chosen: ExportFormat) -> str:
    shift = request.shift
    if request.origin.run is None:
        return (
            f"It acts at the tokens of scope {chosen.acts_at}. Its Δ is from a file, without answers under it: only an "
            "evaluation of this export says what it does."
        )
    if shift.scope == chosen.acts_at:
        return f"It acts at the tokens of scope {shift.scope}, as the intervention that was measured does."
    if shift.is_same_at(chosen.acts_at, last_block=request.last_block):
        return (
            f"It acts at the tokens of scope {chosen.acts_at} and was measured at {shift.scope}. At the last block "
            "alone that is the same: no token attends to what leaves it, so only tokens that give a logit count."
        )
    return (
        "**It is another intervention than the one that was measured**: it acts at the tokens of scope "
        f"{chosen.acts_at}, and scope {shift.scope} was measured, so later blocks attend to states that it moved too. "
        "Only an evaluation of this export says what it does; `--blocks last` gives one without this difference."
    )


def _introduce(request: ExportRequest, chosen: ExportFormat) -> str:
    shift = request.shift
    return (
        f"{escape(request.name)} with a constant shift subtracted from the hidden states of its language "
        "model (cross-modality representation manipulation, [CMRM](https://arxiv.org/abs/2410.09047)): "
        f"α = {shift.alpha:g} at {_name_blocks(shift.blocks)} of {request.blocks}, counted from 0, as "
        f"`{chosen.kind}`.\n\n"
        f"{describe_effect(request, chosen)}\n\n"
        "`canary.json` tells a server that steers from one that does not:\n\n"
        "```sh\ncmrm verify-serving URL --canary canary.json\n```"
    )


def _name_blocks(blocks: Sequence[int]) -> str:
    return f"{'block' if len(blocks) == 1 else 'blocks'} {', '.join(map(str, blocks))}"


def _list(title: str, lines: Sequence[str]) -> str:
    return "" if not lines else f"## {title}\n\n" + "\n".join(f"* {line}" for line in lines)


def _tabulate(evaluation: Evaluation) -> str:
    head = (
        "| | data set | judge | plain | hooks | this export | change from plain | from hooks |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    )
    rows = []
    for one in evaluation.rates:
        values = [write_value(rate) for rate in (one.plain, one.hooks, one.exported)]
        changes = [write_change(change) for change in (one.cure, one.change)]
        names = [NAMES[one.kind], escape(one.dataset or "all harmless"), escape(one.judge)]
        rows.append(f"| {' | '.join([*names, *map(str, (*values, *changes))])} |")
    return (
        "## Evaluation\n\nMeasured on this folder itself, loaded by transformers (run "
        f"`{evaluation.exported}`), and held against hooks on the source at the same blocks and strength (run "
        f"`{evaluation.source}`). {evaluation.equal:,} of {evaluation.answers:,} answers equal those under hooks. "
        "Per cent [95 % Wilson interval] (n); changes in percentage points, paired by question.\n\n"
        + "\n".join([*head, *rows])
    )


def _describe_origin(request: ExportRequest) -> str:
    origin = request.origin
    lines = [
        f"model {_code(request.name)}, revision `{request.model.revision}`",
        f"arm {_code(origin.arm)}" + (f" of run `{origin.run}`" if origin.run else ""),
        f"shift `{request.shift.digest}`",
        *(f"Δ `{key}`" for key in origin.shifts),
        *(f"{escape(name)}: {_code(value)}" for name, value in sorted(origin.made_from.items())),
    ]
    return _list("Where it comes from", lines)


def _describe_licence(request: ExportRequest) -> str:
    base = escape(request.name)
    return (
        f"## Licence\n\nThe licence of {base} holds for what of it is in this folder and for the model that is served; "
        "its notices are here where its files had any."
    )


def _list_results(evaluation: Evaluation) -> list[EvalResult]:
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=one.dataset or "harmless",
            dataset_name=one.dataset or "all harmless questions",
            metric_type=one.kind,
            metric_name=f"{NAMES[one.kind]} (%), judge {one.judge}",
            metric_value=round(100 * one.exported.value, 2),
        )
        for one in evaluation.rates
        if one.exported.value is not None
    ]


def _code(text: str) -> str:
    """Text of others as a code span on one line."""
    return f"`{show(text).replace('`', chr(39))}`"
