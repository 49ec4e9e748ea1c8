"""`cmrm export --to dataset`: a finished run as a data set of the Hugging Face hub, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmrm.errors import UserError
from cmrm.new_folder import write_new_folder
from flows.export.push import push_or_list, refuse_public
from flows.hub.card import CardFacts, write_card
from flows.hub.eval_results import FOLDER as RESULTS
from flows.hub.eval_results import write_eval_results
from flows.hub.images import RunImages
from flows.hub.rows import order_arms, write_table
from flows.hub.tables import (
    TABLES,
    Harmful,
    HubTable,
    drop_images,
    make_answers_table,
    make_captions_table,
    make_quarantine_table,
    make_samples_table,
    make_states_table,
    make_text_verdicts_table,
)
from flows.hub.views import RunViews
from flows.plan.image_folders import find_run_images
from flows.run_formats import RunExport, Say
from flows.terminal.progress import draw_tentative_bars
from storage.sql.database import connect
from storage.store import Store
from tasks.compare.finished_runs import find_finished, find_report
from tasks.core.stage_name import StageName
from tasks.report.stage import ASKED_OF_MODELS
from tasks.report.summary import Summary, read_summary

CARD = "README.md"
# Answers are sorted by sample and joined with their verdicts; what does not fit goes to the disk.
MEMORY = "512MiB"
# The stages whose rows are read, those of quarantine among them.
READ = (StageName.INGEST, StageName.JUDGE, StageName.SHIFT, *ASKED_OF_MODELS)


def export_dataset(asked: RunExport, say: Say) -> None:
    """Write a finished run's samples, answers and verdicts as a data set, and push it if that is asked for.

    Raises `UserError` or `StoreError` for what the user can fix; then nothing is left of it.
    """
    harmful: Harmful = "include" if asked.options.include_harmful else "withhold"
    if harmful == "include" and asked.push is not None and not asked.dry_run:
        refuse_public(asked.push, kind="dataset")
    store = Store.open(asked.store)
    record = find_finished(store, asked.run)
    run = str(record["run_id"])
    report = find_report(store, record, stages=READ)
    summary = read_summary(store, report)
    with connect(asked.store, run=run, memory=MEMORY) as connection, write_new_folder(asked.output) as folder:
        views = RunViews(connection=connection, harmful=harmful)
        images = RunImages(find_run_images(store, record, views.list_datasets()))
        tables = _choose_tables(asked, views, summary)
        say(f"Writing {', '.join(one.name for one in tables)} of run {run} to {asked.output}.")
        with draw_tentative_bars() as bars:
            written = [
                write_table(table, views, folder, images=images, bar=bars.start(table.name))
                for table in tables
            ]
        facts = CardFacts(
            name=asked.output.name if asked.push is None else asked.push.rpartition("/")[2],
            run=run,
            summary=summary,
            tables=written,
            harmful=harmful,
            lost=None if asked.options.images == "none" else len(images.lost),
            unanswered=views.count_unanswered(),
            reasons=views.count_reasons(make_quarantine_table()),
            shifts=_digest_shifts(store, summary),
            eval_results=_write_results(asked, summary, folder, record),
        )
        (folder / CARD).write_text(write_card(facts), encoding="utf-8")
    for line in _describe(facts):
        say(f"  {line}")
    if asked.push is not None:
        push_or_list(
            asked.output,
            asked.push,
            kind="dataset",
            dry_run=asked.dry_run,
            replaced=[f"{name}/*" for name in (*TABLES, RESULTS)],
            say=say,
        )


def _choose_tables(asked: RunExport, views: RunViews, summary: Summary) -> list[HubTable]:
    """Make the tables that there are rows for; raises `UserError` for states of a run that kept none."""
    judges = views.list_judges([judge.name for judge in summary.judges])
    order = order_arms([row.arm for row in summary.table.rows])
    tables = [
        make_answers_table(judges, order=order),
        make_samples_table(),
        make_text_verdicts_table(),
        make_captions_table(),
        make_quarantine_table(),
    ]
    # `datasets` cannot load one without rows.
    tables = [table for table in tables if views.count(table.view)]
    if asked.options.states:
        widths = views.list_widths()
        if not widths:
            raise UserError(f"--states: run {asked.run} kept no hidden states; leave it out.")
        tables.append(make_states_table(next(iter(widths)) if len(widths) == 1 else None))
    return [drop_images(table) for table in tables] if asked.options.images == "none" else tables


def _digest_shifts(store: Store, summary: Summary) -> dict[str, str]:
    """The sha256 digests of the files of Δ, by key."""
    found = {one.key: store.look_up(StageName.SHIFT, one.key) for one in summary.shifts}
    return {
        key: file.sha256
        for key, manifest in found.items()
        if manifest is not None
        for file in manifest.files
        if file.path.startswith("shifts/")
    }


def _write_results(asked: RunExport, summary: Summary, folder: Path, record: Mapping[str, Any]) -> list[str]:
    """Write evaluation results where it is known which repository they stand on."""
    if asked.push is None:
        return []
    return write_eval_results(
        summary.table,
        folder,
        repository=asked.push,
        date=record.get("created_at"),
        run=str(record["run_id"]),
    )


def _describe(facts: CardFacts) -> list[str]:
    lines = [f"{one.table.name}: {one.rows:,} rows" for one in facts.tables]
    withheld = sum(one.withheld for one in facts.tables)
    if withheld:
        lines.append(
            f"Text and images of harmful samples, and answers to them, are left out of {withheld:,} rows; "
            "--include-harmful writes them."
        )
    if facts.lost:
        lines.append(f"{facts.lost:,} images are gone or are others by now; their cells are empty.")
    lines += [f"Results for a model's own repository: {one}" for one in facts.eval_results]
    return lines
