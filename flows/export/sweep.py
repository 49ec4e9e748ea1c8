"""`cmrm export --sweep`: run exports at several strengths, and choose one by the bound of the spec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path

from cmrm.errors import UserError
from cmrm.export.format import ExportFormat
from cmrm.new_folder import make_hidden_folder, write_new_folder
from flows.export.evaluate import RunPlace, name_hooks, run_exported, run_under_hooks
from flows.export.source import Asked, ExportSource, read_source
from flows.export.sweep_table import list_rates
from flows.spec.spec import Spec
from storage.store import Store
from tasks.export.evaluation import Bound, Sweep, evaluate_sweep

FEWEST, MOST = 2, 32


def read_strengths(text: str) -> tuple[float, ...]:
    """Parse `--sweep`: strengths above 0 with commas, in ascending order; raises `UserError`."""
    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not FEWEST <= len(found) <= MOST or not all(isfinite(one) and one > 0 for one in found):
        raise UserError(
            f"--sweep {text!r}: give {FEWEST} to {MOST} different strengths above 0, such as 0.25,0.5,0.75,1."
        )
    return tuple(found)


def sweep_strengths(
    source: ExportSource,
    asked: Asked,
    strengths: Sequence[float],
    *,
    chosen: ExportFormat,
    output: Path,
    spec: Spec,
    place: RunPlace,
    say: Callable[[str], None],
) -> Sweep:
    """Run a spec on exports at several strengths, one folder at a time, and on the source under hooks at the same.

    The folders lie beside `output` and are gone at the end. Raises `UserError` or `StoreError`.
    """
    say(f"Running {source.request.name} under hooks at {len(strengths)} strengths.")
    hooked = run_under_hooks(source, spec, strengths=strengths, place=place)
    exported = {}
    for alpha in strengths:
        at = change_strength(source, asked, alpha, store=place.store)
        with make_hidden_folder(output, kind="sweep") as above:
            folder = above / output.name
            with write_new_folder(folder) as hidden:
                chosen.write(at.request, hidden)
            say(f"Running the export at α = {alpha:g}.")
            exported[alpha] = run_exported(at, folder, spec, place=place)
    return evaluate_sweep(
        Store.open(place.store),
        source=hooked,
        exported=exported,
        hooks=name_hooks(source, spec),
        bound=Bound(utility_loss=spec.choice.utility_loss, over_refusal=spec.choice.over_refusal),
    )


def change_strength(source: ExportSource, asked: Asked, alpha: float, *, store: str) -> ExportSource:
    """Make the source of the same arm at another strength."""
    assert source.arm is not None  # a file of Δ is refused before
    # By its id: the latest run may be one of the evaluation's own.
    return read_source(source.arm.run, replace(asked, arm=source.arm.name, alpha=alpha), store=store)


def need_strength(sweep: Sweep) -> float:
    """The strength that the bound selects; raises `UserError`, with the rates, if there is none."""
    if sweep.chosen is None:
        rates = "; ".join(list_rates(sweep))
        raise UserError(
            f"--sweep: by the spec's `choice`, no strength is better than plain answers at its cost ({rates}); give "
            "others, another bound in the spec, or the strength itself (--alpha)."
        )
    return sweep.chosen
