"""Report on a run: numbers and figures from its verdicts, hidden states and timings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from storage.records.manifest import Manifest
from storage.shards.rows import iterate_all, need_manifest
from storage.store import Store
from storage.tables.parquet import read_parquet
from tasks.core.commit import NO_ROWS, commit_files
from tasks.core.progress import report_rows
from tasks.core.quarantine import read_quarantine
from tasks.core.software import gather_software
from tasks.core.stage import Job, make_stage
from tasks.core.stage_name import ANSWERS, StageName
from tasks.report.agreement import describe_agreement
from tasks.report.all_figures import draw_summary
from tasks.report.backbones import VERSION as BACKBONES_VERSION
from tasks.report.backbones import compare_backbones, name_backbones
from tasks.report.captions import summarize_captions
from tasks.report.categories import rate_categories
from tasks.report.costs import describe_costs
from tasks.report.curves import make_curves
from tasks.report.defences import has_defences, make_defence_table
from tasks.report.directions import VERSION as DIRECTIONS_VERSION
from tasks.report.directions import gather_directions
from tasks.report.figure import Figure
from tasks.report.headline import Bound, make_headline
from tasks.report.imported import VERSION as IMPORTED_VERSION
from tasks.report.imported import ImportedArm, compare_imported, leave_out
from tasks.report.judge_costs import describe_judges
from tasks.report.outcomes import JUDGED, Arm, Outcomes, SampleInfo, find_arm
from tasks.report.parts import VERSION as PARTS_VERSION
from tasks.report.parts import read_parts
from tasks.report.questions import rate_questions
from tasks.report.reasoning import rate_traces
from tasks.report.state_blocks import BlockMeasures, choose_groups
from tasks.report.state_maps import MAPS, StateMap, find_sets, make_maps, write_maps
from tasks.report.states import describe_panel, find_groups, make_panels
from tasks.report.stimuli import gather_stimuli
from tasks.report.summary import (
    FigureCaption,
    QuarantineCount,
    ShiftSummary,
    Summary,
    WithoutEffect,
    write_summary,
)
from tasks.report.table import make_table
from tasks.report.tokens import TokenCount, count_tokens
from tasks.report.twins import rate_twins
from tasks.shards.derived_rows import add_rows
from tasks.shards.precision import gather_precision

# Part of the key: raise it when the same verdicts yield other numbers or figures.
VERSION = 13
# As above, for the table and figure of defences, which other reports lack.
DEFENCES_VERSION = 2
# As above, for what is said of traces and of questions alone.
TEXTS_VERSION = 3
# The stages whose results depend on the software that a model runs in.
MADE_BY_MODELS = (
    StageName.CAPTION,
    StageName.EXTRACT_STATES,
    StageName.SHIFT,
    StageName.GENERATE,
    StageName.OVERHEAD,
)
# The stages that quarantine samples, after ingest.
ASKED_OF_MODELS = (
    StageName.CAPTION,
    StageName.EXTRACT_STATES,
    *ANSWERS,
    StageName.OVERHEAD,
    StageName.JUDGE,
    StageName.JUDGE_TEXTS,
)

Made = Mapping[StageName, Sequence[Manifest]]


@dataclass(frozen=True, kw_only=True)
class ReportJob(Job):
    """One run: the keys of its results, its interventions' settings by name, and the bound that selects α.

    `passes` counts by name the sequences that are decoded for one answer. `imported` are the arms that other systems
    answered, each as `SurveyedAnswers.describe` returns it. `models`, `backbones` and `judges` are as returned by
    their `describe`: a report loads none of them.
    """

    models: tuple[Mapping[str, str], ...] = field(hash=False)
    judges: tuple[Mapping[str, Any], ...] = field(hash=False)
    title: str | None
    used: Mapping[StageName, tuple[str, ...]] = field(hash=False)
    settings: Mapping[str, Mapping[str, str]] = field(hash=False)
    utility_loss: float
    over_refusal: float | None
    passes: Mapping[str, int] = field(default_factory=dict, hash=False)
    imported: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    backbones: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)

    @property
    def stage(self) -> StageName:
        return StageName.REPORT

    def content(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "title": self.title,
            "models": [dict(model) for model in self.models],
            "judges": [dict(judge) for judge in self.judges],
            "used": {stage: list(keys) for stage, keys in self.used.items()},
            "settings": {name: dict(settings) for name, settings in self.settings.items()},
            "bound": {"utility_loss": self.utility_loss, "over_refusal": self.over_refusal},
            # Reports without such a defence keep the keys that they had before there was this table.
            **(
                {"defences": {"version": DEFENCES_VERSION, "passes": dict(self.passes)}}
                if has_defences(self.settings)
                else {}
            ),
            **({"texts": TEXTS_VERSION} if self.used.get(StageName.JUDGE_TEXTS) else {}),
            **({"parts": PARTS_VERSION} if self.used.get(StageName.SHIFT_PARTS) else {}),
            **({"directions": DIRECTIONS_VERSION} if self.used.get(StageName.PROBE) else {}),
            **(
                {"imported": {"version": IMPORTED_VERSION, "arms": [dict(one) for one in self.imported]}}
                if self.imported
                else {}
            ),
            **(
                {"backbones": {"version": BACKBONES_VERSION, "models": [dict(one) for one in self.backbones]}}
                if self.backbones
                else {}
            ),
        }


def _report(job: ReportJob, store: Store) -> Manifest:
    # Finding verifies every byte, so each is found once.
    made = {stage: [need_manifest(store, stage, key) for key in keys] for stage, keys in job.used.items()}
    outcomes = read_outcomes(store, made)
    harmful = {(one.dataset, one.sample_id): one.harmful for one in outcomes.samples}
    answered = [one for stage in ANSWERS for one in made.get(stage, ())]
    backbones = name_backbones(job.backbones)
    table = make_table(
        outcomes,
        settings=job.settings,
        quarantined=_count_unanswered(store, answered),
        backbones=backbones,
    )
    imported = [ImportedArm(**one) for one in job.imported]
    own = leave_out(table, {one.name for one in imported})
    changes = compare_imported(outcomes, table, {one.name for one in imported})
    curves = make_curves(
        outcomes,
        interventions=list(job.settings),
        utility_loss=job.utility_loss,
        over_refusal=job.over_refusal,
    )
    found = find_groups(store, made[StageName.EXTRACT_STATES])
    panels = make_panels(found, harmful=harmful)
    sets = find_sets(found)
    by_block = BlockMeasures(wanted=choose_groups(sets))
    maps = make_maps(sets, measure=by_block.add)
    bound = Bound(utility_loss=job.utility_loss, over_refusal=job.over_refusal)
    beside, by_backbone = compare_backbones(store, job.backbones, made[StageName.EXTRACT_STATES])
    states = [record for panel in panels for record in describe_panel(panel)]
    costs = describe_costs(iterate_all(store, made[StageName.OVERHEAD], "timings"))
    defences = make_defence_table(
        outcomes,
        own,
        settings=job.settings,
        passes=job.passes,
        tokens=_count_tokens(job, store, made[StageName.GENERATE]),
        costs=costs,
    )
    categories = rate_categories(outcomes, table)
    texts = made.get(StageName.JUDGE_TEXTS, ())
    reasoning = rate_traces(
        store,
        answered=answered,
        judged=made[StageName.JUDGE],
        texts=texts,
        outcomes=outcomes,
        table=table,
    )
    parts = read_parts(store, made.get(StageName.SHIFT_PARTS, ()))
    directions = gather_directions(store, made.get(StageName.PROBE, ()), outcomes)
    summary = Summary(
        version=VERSION,
        title=job.title,
        headline=make_headline(
            own,
            bound=bound,
            curves=curves,
            states=states,
            costs=costs,
            reasoning=reasoning,
            imported=changes,
            backbones=backbones,
        ),
        models=tuple(add_rows(job.models, (one for stage in MADE_BY_MODELS for one in made.get(stage, ())))),
        judges=tuple(describe_judges(store, made[StageName.JUDGE], job.judges, texts=texts)),
        table=table,
        curves=tuple(curves),
        states=tuple(states),
        state_blocks=tuple(by_block.records),
        overhead=tuple(costs),
        agreement=tuple(describe_agreement(outcomes)),
        quarantined=tuple(_count_quarantined(store, made)),
        without_effect=tuple(_find_without_effect(made[StageName.GENERATE])),
        precision=tuple(gather_precision(made[StageName.GENERATE])),
        software=gather_software(one for stage in MADE_BY_MODELS for one in made.get(stage, ())),
        shifts=tuple(_describe_shift(one) for one in made[StageName.SHIFT]),
        figures=(),
        stimuli=tuple(gather_stimuli((*made[StageName.EXTRACT_STATES], *made[StageName.GENERATE]))),
        parts=tuple(parts),
        directions=directions.directions,
        direction_cosines=directions.cosines,
        turned=directions.turned,
        categories=tuple(categories),
        questions=tuple(rate_questions(store, texts, outcomes.samples)),
        reasoning=tuple(reasoning),
        twins=tuple(rate_twins(outcomes, table)),
        defences=defences,
        captions=tuple(summarize_captions(store, made.get(StageName.CAPTION, ()))),
        imported=tuple(imported),
        imported_changes=tuple(changes),
        backbones=tuple(beside),
        backbone_blocks=tuple(by_backbone),
    )
    figures = draw_summary(summary, panels=panels, bound=bound)
    summary = replace(
        summary, figures=tuple(FigureCaption(name=one.name, caption=one.caption) for one in figures)
    )
    manifest = commit_files(job, store, _name_files(job.key, summary, figures, maps), rows=NO_ROWS)
    report_rows(1)
    return manifest


def _name_files(
    key: str, summary: Summary, figures: Sequence[Figure], maps: Sequence[StateMap]
) -> dict[str, bytes]:
    files = {f"reports/{key}.json": write_summary(summary)}
    if maps:
        files[f"reports/{MAPS}/{key}.maps"] = write_maps(maps)
    for figure in figures:
        for suffix, data in figure.save().items():
            files[f"reports/{figure.name}/{key}.{suffix}"] = data
    return files


def read_outcomes(store: Store, made: Made) -> Outcomes:
    """Read samples and verdicts of some manifests, by stage."""
    # One text for all samples that have it.
    known: dict[str | None, str] = {}
    samples = [
        SampleInfo(
            dataset=known.setdefault(row["dataset"], row["dataset"]),
            sample_id=row["sample_id"],
            harmful=row["harmful"],
            split_by=row["split_by"] or row["question"],
            category=known.setdefault(row["category"], row["category"]),
            twin=row["twin"],
        )
        for row in iterate_all(
            store,
            made[StageName.INGEST],
            "samples",
            ("dataset", "sample_id", "harmful", "question", "split_by", "category", "twin"),
        )
    ]
    outcomes = Outcomes(samples=samples)
    outcomes.add(iterate_all(store, made[StageName.JUDGE], "judgements", JUDGED))
    return outcomes


def _count_tokens(job: ReportJob, store: Store, answered: Sequence[Manifest]) -> dict[Arm, TokenCount]:
    """Average the tokens of an answer by arm; other reports than those of defences show none."""
    return count_tokens(store, answered) if has_defences(job.settings) else {}


def _count_unanswered(store: Store, manifests: Sequence[Manifest]) -> dict[Arm, int]:
    """Count the quarantined rows of each arm."""
    counts: Counter[Arm] = Counter()
    for manifest in manifests:
        arm = find_arm(manifest.content)
        for path in manifest.paths("quarantine"):
            counts[arm] += read_parquet(store.local_path(path)).num_rows
    return counts


def _count_quarantined(store: Store, made: Made) -> list[QuarantineCount]:
    """Count quarantined rows by reason: each sample once, under however many models and arms it was quarantined."""
    counts: Counter[tuple[str, str, str]] = Counter(
        (StageName.INGEST, row["dataset"], row["reason"])
        for row in read_quarantine(store, made[StageName.INGEST])
    )
    reasons: dict[tuple[str, str], tuple[str, str]] = {}
    for stage in ASKED_OF_MODELS:
        for row in read_quarantine(store, made.get(stage, ())):
            reasons.setdefault((row["dataset"], row["sample_id"]), (stage, row["reason"]))
    counts.update((stage, dataset, reason) for (dataset, _), (stage, reason) in reasons.items())
    return [
        QuarantineCount(stage=stage, dataset=dataset, reason=reason, rows=rows)
        for (stage, dataset, reason), rows in sorted(counts.items())
    ]


def _find_without_effect(answered: Sequence[Manifest]) -> list[WithoutEffect]:
    """Count steered answers whose state did not move at some block, since αΔ was lost in the dtype's rounding."""
    counts: dict[tuple[str, str, float], Counter[str]] = {}
    for manifest in answered:
        content = manifest.content
        blocks = manifest.provenance.get("steered_distances_since_resumed") or {}
        if content["intervention"] is None or not blocks:
            continue
        arm = content["name"], content["intervention_name"], content["intervention"]["alpha"]
        worst = max(blocks.values(), key=lambda one: one["without_effect"])
        counts.setdefault(arm, Counter()).update(
            {name: worst[name] for name in ("prompts", "without_effect")}
        )
    return [
        WithoutEffect(model=model, intervention=name, alpha=alpha, **count)
        for (model, name, alpha), count in sorted(counts.items())
        if count["without_effect"]
    ]


def _describe_shift(manifest: Manifest) -> ShiftSummary:
    provenance = manifest.provenance
    return ShiftSummary(
        key=manifest.key,
        model=provenance["model"],
        image=provenance["image"],
        method=provenance["method"],
        anchors=provenance["count"],
        part=provenance.get("part", "all"),
    )


write_report = make_stage(StageName.REPORT, _report, place="processor")
