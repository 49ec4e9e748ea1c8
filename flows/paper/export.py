"""`cmrm export --to paper`: a finished run's figures to the width of a column and of a page, tables and references."""

from __future__ import annotations

from pathlib import Path

from cmrm.new_folder import write_new_folder
from flows.paper.bibtex import write_bibtex
from flows.paper.references import list_references
from flows.report.sections import make_document
from flows.report.writers.exports import escape, write_latex
from flows.run_formats import RunExport, Say
from storage.shards.rows import iterate_all, need_manifest
from storage.store import Store
from tasks.compare.finished_runs import find_finished, find_report
from tasks.core.stage_name import StageName
from tasks.report.all_figures import draw_summary
from tasks.report.figure import Figure, to_csv
from tasks.report.headline import Bound
from tasks.report.states import find_groups, make_panels
from tasks.report.summary import read_summary

# Inches: of a column, and of the text of a page of two columns.
WIDTHS = {"1col": 3.25, "2col": 6.75}
FIGURES, TABLES, BIBLIOGRAPHY, INCLUDES = "figures", "tables", "references.bib", "figures.tex"
READ = (StageName.INGEST, StageName.EXTRACT_STATES)


def export_paper(asked: RunExport, say: Say) -> None:
    """Write figures as SVG and PDF, tables as LaTeX, and a bibliography of what was used.

    Raises `UserError` or `StoreError` for what the user can fix; then nothing is left of it.
    """
    store = Store.open(asked.store)
    record = find_finished(store, asked.run)
    run = str(record["run_id"])
    report = find_report(store, record, stages=READ)
    summary = read_summary(store, report)
    used = report.content["used"]
    harmful = {
        (row["dataset"], row["sample_id"]): row["harmful"]
        for row in iterate_all(
            store,
            [need_manifest(store, StageName.INGEST, key) for key in used[StageName.INGEST]],
            "samples",
            ("dataset", "sample_id", "harmful"),
        )
    }
    states = [need_manifest(store, StageName.EXTRACT_STATES, key) for key in used[StageName.EXTRACT_STATES]]
    figures = draw_summary(
        summary,
        panels=make_panels(find_groups(store, states), harmful=harmful),
        bound=Bound(**report.content["bound"]),
    )
    document = make_document(summary, run_id=run, store_name=store.url, keys=record["keys"])
    entries = list_references(record, summary)
    with write_new_folder(asked.output) as folder:
        written = [line for figure in figures for line in _write_figure(folder / FIGURES, figure)]
        (folder / INCLUDES).write_text("\n".join(written), encoding="utf-8")
        (folder / TABLES).mkdir()
        for table in document.tables():
            (folder / TABLES / f"{table.name}.tex").write_bytes(write_latex(table))
        (folder / BIBLIOGRAPHY).write_text(write_bibtex(entries), encoding="utf-8", errors="replace")
    say(
        f"Wrote {len(figures)} figures, {len(document.tables())} tables and {len(entries)} references of run {run} "
        f"to {asked.output}."
    )


def _write_figure(folder: Path, figure: Figure) -> list[str]:
    """Write a figure at each width that its panels fit, and return the LaTeX that shows it at the smallest."""
    folder.mkdir(exist_ok=True)
    (folder / f"{figure.name}.csv").write_bytes(to_csv(figure.data))
    smallest = ""
    for name, width in WIDTHS.items():
        if not figure.fits(width) and width < max(WIDTHS.values()):
            continue
        smallest = smallest or name
        for suffix, data in figure.save_for_paper(width).items():
            (folder / f"{figure.name}-{name}.{suffix}").write_bytes(data)
    kind = "figure" if smallest == "1col" else "figure*"
    return [
        rf"\begin{{{kind}}}",
        r"\centering",
        rf"\includegraphics{{{FIGURES}/{figure.name}-{smallest}.pdf}}",
        rf"\caption{{{escape(figure.caption)}}}",
        rf"\label{{fig:{figure.name}}}",
        rf"\end{{{kind}}}",
        "",
    ]
