"""Write a run's report files to its store: Markdown, HTML with the answers, figures, and tables as CSV and LaTeX."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from flows.report.answers_data import make_page_data
from flows.report.answers_page import read_answers
from flows.report.counterparts import describe_counterparts
from flows.report.distances import measure_distances
from flows.report.file_names import FIGURES, MARKDOWN, PAGE, TABLES
from flows.report.sections import make_document
from flows.report.states_page import describe_maps
from flows.report.stimulus_pictures import draw_stimuli
from flows.report.writers.exports import write_csv, write_latex
from flows.report.writers.html import write_html
from flows.report.writers.markdown import write_markdown
from storage.records.layout import report_folder
from storage.records.manifest import Manifest, StoredFile
from storage.shards.rows import need_manifest
from storage.store import Store
from tasks.core.stage_name import StageName
from tasks.report.model_names import shorten_models
from tasks.report.state_maps import MAPS, read_maps
from tasks.report.summary import Summary


def write_report_files(
    store: Store,
    *,
    run_id: str,
    report: Manifest,
    summary: Summary,
    keys: Sequence[str],
    store_name: str,
    images: Mapping[str, Path | None] | None = None,
) -> list[StoredFile]:
    """Write the report of a run to reports/<run id>/ and return its files.

    `report` is the manifest of the report stage and `summary` what it holds; `keys` are those of all jobs of the run,
    `store_name` is the store's path for display, `images` the folders of the data sets' images. Raises `StoreError` if
    the store fails or a file is missing.
    """
    folder = report_folder(run_id)
    used = report.content["used"]
    ingested = [need_manifest(store, StageName.INGEST, key) for key in used[StageName.INGEST]]
    counterparts = describe_counterparts(store, ingested) if summary.stimuli else []
    document = make_document(
        summary, run_id=run_id, store_name=store_name, keys=keys, counterparts=counterparts
    )
    # In the order of the spec: a manifest's content is stored with its keys sorted.
    interventions = dict.fromkeys(row.arm.intervention for row in summary.table.rows)
    answers = read_answers(store, used, interventions=[*interventions])
    pictures = {}
    written = []
    for path in _find_figures(report):
        data = store.read(path)
        name = f"{PurePosixPath(path).parent.name}{PurePosixPath(path).suffix}"
        written.append(store.write_bytes(f"{folder}/{FIGURES}/{name}", data))
        if name.endswith(".svg"):
            pictures[name.removesuffix(".svg")] = data
    for table in document.tables():
        written.append(store.write_bytes(f"{folder}/{TABLES}/{table.name}.csv", write_csv(table)))
        written.append(store.write_bytes(f"{folder}/{TABLES}/{table.name}.tex", write_latex(table)))
    names = shorten_models([model["name"] for model in summary.models])
    page_data = make_page_data(
        answers, images=[images or {}], names=names, distances=measure_distances(store, used)
    )
    page = write_html(
        document,
        figures=pictures,
        answers=page_data,
        stimuli=draw_stimuli(
            (need_manifest(store, StageName.GENERATE, key) for key in used.get(StageName.GENERATE, ())),
            summary.stimuli,
        ),
        counterparts=counterparts,
        states=describe_maps(
            store,
            read_maps(store, report),
            ingested=used[StageName.INGEST],
            shown=page_data.keys,
            arms=answers.arms,
            names=names,
        ),
        total=answers.total,
        command=f'cmrm sql --store {shlex.quote(store_name)} --run {run_id} "FROM responses"',
    )
    written.append(store.write_bytes(f"{folder}/{PAGE}", page.encode("utf-8", "replace")))
    text = write_markdown(document).encode("utf-8", "replace")
    return [*written, store.write_bytes(f"{folder}/{MARKDOWN}", text)]


def _find_figures(report: Manifest) -> list[str]:
    """List the figure files reports/<figure>/<key>.<digest>.<suffix>; the summary is one folder higher."""
    folders = {path: PurePosixPath(path).parent.name for path in report.paths("reports")}
    return [path for path, name in folders.items() if name != MAPS and len(PurePosixPath(path).parts) == 3]
