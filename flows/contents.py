"""The contents of a report: which sections a summary gives, in which order."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from flows.curve_sheets import describe_choices, make_choice_sheet, make_curve_sheets
from flows.document import Block, Command, Document, Picture, Section, Sentence, shorten_models
from flows.finding_sheets import (
    make_overhead_sheet,
    make_quarantine_sheet,
    make_shift_sheet,
    make_states_sheet,
)
from flows.judge_sheets import make_agreement_sheet, make_judges_sheet
from flows.loaded import describe_model, warn_of_code
from flows.main_sheets import describe_settings, make_ablation_sheet, make_changes_sheet, make_main_sheet
from flows.render import describe_parse_errors, describe_quarantine
from tasks.software import describe_software
from tasks.table import Table

PACKAGES = ("cmrm", "torch", "transformers", "prefect", "duckdb")


def make_document(
    summary: Mapping[str, Any], *, run_id: str, store_name: str, keys: Sequence[str]
) -> Document:
    """Order what the report stage found into sections; those with nothing to show are left out."""
    table = Table.from_json(summary["table"])
    curves = summary["curves"]
    pictures = [Picture(name=one["name"], caption=one["caption"]) for one in summary["figures"]]
    # Figures are named after what they show, numbered where there are several.
    shown = {
        name: [one for one in pictures if one.name.partition("-")[0] == name]
        for name in ("strength", "states", "overhead")
    }
    rest = [one for one in pictures if not any(one in known for known in shown.values())]
    settings = describe_settings(table)
    parts: list[tuple[str, str, Iterable[Block | None]]] = [
        (
            "main",
            "Main table",
            [
                make_main_sheet(table) if table.rows else None,
                *_count_errors(table, summary["judges"]),
                *_tell(warn_of_code(summary["models"])),
            ],
        ),
        ("changes", "Changes", [make_changes_sheet(table)]),
        (
            "interventions",
            "Interventions",
            [Sentence(text=settings) if settings else None, make_ablation_sheet(table)],
        ),
        ("strength", "Strength", [*shown["strength"], *_choose(curves), *make_curve_sheets(curves)]),
        ("states", "Final states", [*shown["states"], make_states_sheet(summary["states"])]),
        ("overhead", "Overhead", [*shown["overhead"], make_overhead_sheet(summary["overhead"])]),
        ("judges", "Judges", [make_judges_sheet(summary["judges"])]),
        ("agreement", "Agreement between judges", [make_agreement_sheet(summary["agreement"])]),
        ("figures", "Further figures", rest),
        (
            "quarantine",
            "Set aside",
            [
                Sentence(text=describe_quarantine(summary["quarantined"])),
                make_quarantine_sheet(summary["quarantined"]),
            ],
        ),
        ("shifts", "Shifts", [make_shift_sheet(summary["shifts"])]),
        ("provenance", "Provenance", _trace(summary, run_id=run_id, store_name=store_name, keys=keys)),
    ]
    sections = [
        Section(name=name, title=title, blocks=kept)
        for name, title, blocks in parts
        if (kept := tuple(block for block in blocks if block is not None))
    ]
    models = [model["name"] for model in summary["models"]]
    return Document(
        title=summary["title"] or ", ".join(shorten_models(models).values()),
        verdict=tuple(summary["headline"].splitlines()),
        sections=tuple(sections),
    )


def _count_errors(table: Table, judges: Sequence[Mapping[str, Any]]) -> list[Block]:
    return [Sentence(text=describe_parse_errors(judges))] if table.rows else []


def _tell(lines: Iterable[str]) -> list[Block]:
    return [Sentence(text=line) for line in lines]


def _choose(curves: Sequence[Mapping[str, Any]]) -> list[Block | None]:
    return [*(Sentence(text=line) for line in describe_choices(curves)), make_choice_sheet(curves)]


def _trace(summary: Mapping[str, Any], *, run_id: str, store_name: str, keys: Sequence[str]) -> list[Block]:
    models = [line for model in summary["models"] for line in describe_model(model)]
    packages = ", ".join(f"{name} {found}" for name in PACKAGES if (found := _find_version(name)))
    return [
        Sentence(text=f"Run {run_id}, kept in {store_name}: made of {len(set(keys))} stored results."),
        *_tell(models),
        *_tell(_tell_without_effect(summary.get("without_effect") or ())),
        *_tell(describe_software(summary.get("software") or {})),
        Sentence(text=f"Written by {packages}."),
        Sentence(text="Samples, answers, verdicts, states and shifts of this run, in SQL:"),
        Command(text=f'cmrm sql --store {shlex.quote(store_name)} --run {run_id} "FROM responses LIMIT 10"'),
    ]


def _tell_without_effect(found: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"{one['intervention']} α={one['alpha']:g} had no effect at this precision on {one['without_effect']} of "
        f"{one['prompts']} answers of {one['model']}: αΔ is smaller than the model's dtype can tell."
        for one in found
    ]


def _find_version(package: str) -> str | None:
    """The installed version, without importing the package; None where it is used from a checkout."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
