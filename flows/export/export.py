"""`cmrm export`: from a run or a file of Δ to a proved folder with its canary and its card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cmrm.export import FORMATS
from cmrm.export.candidates import list_candidates, read_candidates
from cmrm.export.format import ExportFormat, Written
from cmrm.export.reference import Reference, make_reference
from cmrm.export.writer import Exported, refuse_inside, replace_card, write_export
from cmrm.models.loading import load_model
from cmrm.models.pinning import check_unchanged
from cmrm.new_folder import refuse_used
from flows.export.card import write_card
from flows.export.evaluate import evaluate_export, find_spec, refuse_unevaluated
from flows.export.source import Asked, ExportSource, read_source
from flows.server.client import quiet_prefect
from tasks.core.options import build_plugin
from tasks.export.evaluation import Evaluation

if TYPE_CHECKING:
    from cmrm.models.loading import Dtype

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class EvaluationWish:
    """How an export is evaluated: a spec's file or `own`, and the server and workers of its runs."""

    spec: str
    server: str | None
    workers: str


@dataclass(frozen=True, kw_only=True)
class Made:
    """A finished export, with what it was made of and by which format, and what it was measured by, if it was."""

    source: ExportSource
    chosen: ExportFormat
    exported: Exported
    evaluation: Evaluation | None = None


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
    refuse_used(output)
    source = read_source(given, asked, store=store)
    request = source.request
    refuse_inside(output, request.model.folder)
    chosen.check(request)
    spec = None if wish is None else find_spec(wish.spec, source.arm)
    if spec is not None:
        refuse_unevaluated(source, chosen, spec)
    say(f"Running {request.name} under hooks, and choosing the canary's prompts.")
    reference = _run_source(source, chosen, prompts=prompts)
    say(f"Writing {to} to {output}, and reading it again.")

    def describe(written: Written, proofs: Sequence[str]) -> str:
        # What was read between two equal digests is what the card names.
        check_unchanged(request.model)
        return write_card(request, chosen, written, proofs, name=output.name)

    exported = write_export(request, chosen, reference, output=output, describe=describe)
    if wish is None or spec is None:
        return Made(source=source, chosen=chosen, exported=exported)
    say(f"Evaluating {output}.")
    evaluation = evaluate_export(source, output, spec, store=store, server=wish.server, workers=wish.workers)
    card = write_card(
        request, chosen, exported.written, exported.proofs, name=output.name, evaluation=evaluation
    )
    replace_card(output, card)
    return Made(source=source, chosen=chosen, exported=exported, evaluation=evaluation)


def _run_source(source: ExportSource, chosen: ExportFormat, *, prompts: Path | None) -> Reference:
    """Load the source model, run it under hooks, and let it go."""
    request = source.request
    candidates = list_candidates(request.model.folder) if prompts is None else read_candidates(prompts)
    vlm = load_model(request.model, dtype=cast("Dtype", request.dtype), device=request.device)
    return make_reference(
        vlm,
        request,
        [replace(one, system=source.system) for one in candidates],
        format=chosen.kind,
        acts_at=chosen.acts_at,
    )
