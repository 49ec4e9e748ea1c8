"""`cmrm export`: from a run or a file of Δ to a proved folder with its canary and its card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cmrm.doctor.admission import load_admitted
from cmrm.errors import UserError
from cmrm.export import FORMATS
from cmrm.export.candidates import list_candidates, read_candidates
from cmrm.export.format import ExportFormat, Written
from cmrm.export.reference import Reference, make_reference
from cmrm.export.writer import Exported, refuse_inside, replace_card, write_export
from cmrm.models.pinning import check_unchanged
from cmrm.new_folder import refuse_used
from flows.export.card import write_card
from flows.export.evaluate import RunPlace, evaluate_export, find_spec, refuse_format, refuse_unevaluated
from flows.export.source import Asked, ExportSource, read_source
from flows.export.sweep import change_strength, need_strength, sweep_strengths
from flows.export.sweep_table import list_rates
from flows.server.client import quiet_prefect
from tasks.core.options import build_plugin
from tasks.export.evaluation import Evaluation, Sweep

if TYPE_CHECKING:
    from cmrm.models.loading import Dtype

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class EvaluationWish:
    """How an export is evaluated: a spec's file or `own`, and the server and workers of its runs.

    With `strengths`, exports at these are run first, and one of them is chosen.
    """

    spec: str
    server: str | None
    workers: str
    strengths: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Made:
    """A finished export, with what it was made of and by which format, and what it was measured by, if it was."""

    source: ExportSource
    chosen: ExportFormat
    exported: Exported
    evaluation: Evaluation | None = None
    sweep: Sweep | None = None


def export(
    given: str,
    asked: Asked,
    *,
    to: str,
    output: Path,
    store: str,
    prompts: Path | None,
    wish: EvaluationWish | None,
    say: Say,
) -> Made:
    """Export a run's arm or a file of Δ, and evaluate the export if that is wished; `say` is told what goes on.

    Raises `UserError` or `StoreError` for what the user can fix, before any weight is read where it is known by then.
    """
    quiet_prefect()
    chosen = build_plugin(FORMATS, to, {})
    if wish is not None:
        refuse_format(chosen)
    refuse_used(output)
    if chosen.dtype is not None and asked.dtype == "auto":
        asked = replace(asked, dtype=chosen.dtype)
    strengths = () if wish is None else wish.strengths
    if strengths:
        asked = replace(asked, alpha=strengths[-1])
    source = read_source(given, asked, store=store)
    refuse_inside(output, source.request.model.folder)
    chosen.check(source.request)
    spec = None if wish is None else find_spec(wish.spec, source.arm)
    if spec is not None:
        refuse_unevaluated(source, spec)
    sweep = None
    if wish is not None and spec is not None and strengths:
        place = RunPlace(store=store, server=wish.server, workers=wish.workers)
        sweep = sweep_strengths(
            source, asked, strengths, chosen=chosen, output=output, spec=spec, place=place, say=say
        )
        for line in list_rates(sweep):
            say(f"  {line}")
        source = change_strength(source, asked, need_strength(sweep), store=store)
    say(f"Running {source.request.name} under hooks, and choosing the canary's prompts.")
    source, reference = _run_source(source, chosen, prompts=prompts)
    request = source.request
    say(f"Writing {to} to {output}, and reading it again.")

    def describe(written: Written, proofs: Sequence[str]) -> str:
        # What was read between two equal digests is what the card names.
        check_unchanged(request.model)
        return write_card(request, chosen, written, proofs, name=output.name)

    exported = write_export(request, chosen, reference, output=output, describe=describe)
    if wish is None or spec is None:
        return Made(source=source, chosen=chosen, exported=exported)
    say(f"Evaluating {output}.")
    place = RunPlace(store=store, server=wish.server, workers=wish.workers)
    evaluation = evaluate_export(
        source, output, spec, place=place, hooked=None if sweep is None else sweep.source
    )
    card = write_card(
        request,
        chosen,
        exported.written,
        exported.proofs,
        name=output.name,
        evaluation=evaluation,
        sweep=sweep,
    )
    replace_card(output, card)
    return Made(source=source, chosen=chosen, exported=exported, evaluation=evaluation, sweep=sweep)


def _run_source(
    source: ExportSource, chosen: ExportFormat, *, prompts: Path | None
) -> tuple[ExportSource, Reference]:
    """Load the source model, run it under hooks, and let it go; the source has the row that it was read with.

    Raises `UserError` for a type without a row whose derived one fails a check, or that has other blocks than its
    config says.
    """
    request = source.request
    candidates = list_candidates(request.model.folder) if prompts is None else read_candidates(prompts)
    vlm = load_admitted(
        request.model,
        family=request.family,
        dtype=cast("Dtype", request.dtype),
        device=request.device,
    )
    if len(vlm.blocks) != request.blocks:
        raise UserError(
            f"export: the config of {request.name} tells of {request.blocks} decoder blocks, and the model has "
            f"{len(vlm.blocks)}, so which one a number means is not known; serve it by cmrm itself (docs/python.md)."
        )
    request = replace(request, family=vlm.family)
    reference = make_reference(
        vlm,
        request,
        [
            replace(one, system=source.system)
            for one in candidates
            if chosen.takes_images or one.image is None
        ],
        format=chosen.kind,
        acts_at=chosen.acts_at,
    )
    return replace(source, request=request), reference
