"""Build the report's sections from the summary of the report stage."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from flows.report.document import Block, Command, Document, Picture, Section, Sentence
from flows.report.loaded_models import describe_model, warn_of_code
from flows.report.tables.backbones import describe_backbones, make_backbone_tables
from flows.report.tables.captions import make_captions_table
from flows.report.tables.categories import make_category_tables
from flows.report.tables.curves import describe_choices, make_choice_table, make_curve_tables
from flows.report.tables.defences import make_compared_table, make_defences_table
from flows.report.tables.directions import (
    make_cosines_tables,
    make_directions_table,
    make_turned_table,
)
from flows.report.tables.findings import (
    make_overhead_table,
    make_quarantine_table,
    make_shift_table,
    make_states_table,
)
from flows.report.tables.imported import make_imported_changes_table, make_imported_table
from flows.report.tables.judges import make_agreement_table, make_judges_table
from flows.report.tables.main import (
    describe_settings,
    make_ablation_table,
    make_changes_table,
    make_main_table,
)
from flows.report.tables.parts import make_parts_tables
from flows.report.tables.reasoning import describe_no_final, make_reasoning_table
from flows.report.tables.stimuli import make_stimulus_table, warn_of_padding
from flows.report.tables.text_alone import make_questions_table, make_text_alone_table
from flows.report.tables.twins import make_twins_table
from flows.report.writers.terminal import describe_parse_errors, describe_quarantine
from tasks.core.software import describe_software
from tasks.report.judge_costs import JudgeTotals
from tasks.report.model_names import shorten_models
from tasks.report.outcomes import name_intervention
from tasks.report.summary import Summary, WithoutEffect
from tasks.report.table import Table
from tasks.shards.precision import describe_precision

# The figures beside the verdict, before all sections.
FIRST = ("rates", "changes")
PACKAGES = ("cmrm", "torch", "transformers", "prefect", "duckdb")


def make_document(
    summary: Summary, *, run_id: str, store_name: str, keys: Sequence[str], counterparts: Sequence[str] = ()
) -> Document:
    """Build the report document from a summary; empty sections are left out.

    `counterparts` say what was shown in place of several images, video and sound, if samples have such.
    """
    table = summary.table
    curves = summary.curves
    pictures = [Picture(name=one.name, caption=one.caption) for one in summary.figures]
    # Figure names are a section's name, with a number if there are several.
    shown = {
        name: [one for one in pictures if one.name.partition("-")[0] == name]
        for name in (
            "categories",
            "defences",
            "strength",
            "parts",
            "directions",
            "backbones",
            "states",
            "overhead",
        )
    }
    first = [one for one in pictures if one.name in FIRST]
    rest = [one for one in pictures if not any(one in known for known in (first, *shown.values()))]
    settings = describe_settings(table)
    drafts: list[tuple[str, str, Iterable[Block | None]]] = [
        (
            "main",
            "Main table",
            [
                make_main_table(table) if table.rows else None,
                *_count_errors(table, summary.judges),
                *_make_sentences(describe_no_final(summary.reasoning)),
                *_make_sentences(warn_of_code(summary.models)),
                *_make_sentences(warn_of_padding(summary.stimuli)),
            ],
        ),
        ("changes", "Changes", [make_changes_table(table)]),
        (
            "imported",
            "Answered elsewhere",
            [make_imported_table(summary.imported), make_imported_changes_table(summary.imported_changes)],
        ),
        (
            "backbones",
            "Backbone",
            [
                *_make_sentences(describe_backbones(summary.backbones)),
                *shown["backbones"],
                *make_backbone_tables(summary.backbone_blocks),
            ],
        ),
        (
            "interventions",
            "Interventions",
            [Sentence(text=settings) if settings else None, make_ablation_table(table)],
        ),
        (
            "defences",
            "Defences",
            [
                *shown["defences"],
                make_defences_table(summary.defences),
                make_compared_table(summary.defences),
            ],
        ),
        ("strength", "Strength", [*shown["strength"], *_choose(curves), *make_curve_tables(curves)]),
        ("categories", "By category", [*shown["categories"], *make_category_tables(summary.categories)]),
        (
            "text-alone",
            "Text alone",
            [make_text_alone_table(table), make_questions_table(summary.questions)],
        ),
        ("twins", "Twins", [make_twins_table(summary.twins)]),
        ("reasoning", "Reasoning traces", [make_reasoning_table(summary.reasoning)]),
        ("parts", "Parts of Δ", [*shown["parts"], *make_parts_tables(summary.parts)]),
        (
            "directions",
            "Directions",
            [
                *shown["directions"],
                make_directions_table(summary.directions),
                make_turned_table(summary.turned),
                *make_cosines_tables(summary.direction_cosines),
            ],
        ),
        ("states", "Final states", [*shown["states"], make_states_table(summary.states)]),
        ("overhead", "Overhead", [*shown["overhead"], make_overhead_table(summary.overhead)]),
        ("captions", "Captions", [make_captions_table(summary.captions)]),
        ("judges", "Judges", [make_judges_table(summary.judges)]),
        ("agreement", "Agreement between judges", [make_agreement_table(summary.agreement)]),
        ("figures", "Further figures", rest),
        (
            "quarantine",
            "Quarantined",
            [
                Sentence(text=describe_quarantine(summary.quarantined)),
                make_quarantine_table(summary.quarantined),
            ],
        ),
        ("shifts", "Shifts", [make_shift_table(summary.shifts)]),
        (
            "stimuli",
            "Meaningless images",
            [make_stimulus_table(summary.stimuli), *_make_sentences(counterparts)],
        ),
        ("provenance", "Provenance", _trace(summary, run_id=run_id, store_name=store_name, keys=keys)),
    ]
    sections = [
        Section(name=name, title=title, blocks=kept)
        for name, title, blocks in drafts
        if (kept := tuple(block for block in blocks if block is not None))
    ]
    models = [model["name"] for model in summary.models]
    return Document(
        title=summary.title or ", ".join(shorten_models(models).values()),
        verdict=tuple(summary.headline.splitlines()),
        pictures=tuple(first),
        sections=tuple(sections),
    )


def _count_errors(table: Table, judges: Sequence[JudgeTotals]) -> list[Block]:
    return [Sentence(text=describe_parse_errors(judges))] if table.rows else []


def _make_sentences(lines: Iterable[str]) -> list[Block]:
    return [Sentence(text=line) for line in lines]


def _choose(curves: Sequence[Mapping[str, Any]]) -> list[Block | None]:
    return [*(Sentence(text=line) for line in describe_choices(curves)), make_choice_table(curves)]


def _trace(summary: Summary, *, run_id: str, store_name: str, keys: Sequence[str]) -> list[Block]:
    loaded = (*summary.models, *(one.record for one in summary.backbones))
    models = [line for model in loaded for line in describe_model(model)]
    packages = ", ".join(f"{name} {found}" for name in PACKAGES if (found := _find_version(name)))
    return [
        Sentence(text=f"Run {run_id}, stored in {store_name}: {len(set(keys))} stored results."),
        *_make_sentences(models),
        *_make_sentences(_describe_without_effect(summary.without_effect)),
        *_make_sentences(describe_precision(summary.precision)),
        *_make_sentences(describe_software(summary.software)),
        Sentence(text=f"Written by {packages}."),
        Sentence(text="Samples, answers, verdicts, states and shifts of this run, in SQL:"),
        Command(text=f'cmrm sql --store {shlex.quote(store_name)} --run {run_id} "FROM responses LIMIT 10"'),
    ]


def _describe_without_effect(found: Sequence[WithoutEffect]) -> list[str]:
    return [
        f"{name_intervention(one.intervention, one.alpha)} had no effect at this precision on {one.without_effect} of "
        f"{one.prompts} answers of {one.model}: αΔ is below the rounding error of the model's dtype."
        for one in found
    ]


def _find_version(package: str) -> str | None:
    """Read the installed version without importing the package; None in a source checkout."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
