"""A run's report as files in its store: Markdown, a page with the answers, figures, and tables as CSV and LaTeX."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from flows.answers import read_answers
from flows.contents import make_document
from flows.document import shorten_models
from flows.exports import write_csv, write_latex
from flows.html import write_html
from flows.markdown import write_markdown
from storage.manifest import Manifest, StoredFile
from storage.store import Store


def write_report_files(
    store: Store, *, run_id: str, report: Manifest, keys: Sequence[str], store_name: str
) -> list[StoredFile]:
    """Write the report of a run below reports/<run id>/ and return its files, report.md the last.

    `report` is the manifest of the report stage, `keys` those of all that the run made, `store_name` the store as its
    owner would write it. Raises `StoreError` when the store refuses or something in it vanished.
    """
    summary = read_summary(store, report)
    folder = f"reports/{run_id}"
    document = make_document(summary, run_id=run_id, store_name=store_name, keys=keys)
    answers = read_answers(store, report.content["used"], interventions=list(report.content["settings"]))
    pictures = {}
    written = []
    for path in _find_figures(report):
        data = store.read(path)
        name = f"{PurePosixPath(path).parent.name}{PurePosixPath(path).suffix}"
        written.append(store.write_bytes(f"{folder}/figures/{name}", data))
        if name.endswith(".svg"):
            pictures[name.removesuffix(".svg")] = data
    for sheet in document.sheets():
        written.append(store.write_bytes(f"{folder}/tables/{sheet.name}.csv", write_csv(sheet)))
        written.append(store.write_bytes(f"{folder}/tables/{sheet.name}.tex", write_latex(sheet)))
    page = write_html(
        document,
        figures=pictures,
        answers=answers.to_json(shorten_models([model["name"] for model in summary["models"]])),
        total=answers.total,
        command=f'cmrm sql --store {shlex.quote(store_name)} --run {run_id} "FROM responses"',
    )
    written.append(store.write_bytes(f"{folder}/report.html", page.encode("utf-8", "replace")))
    # Last, since it is what a reader is sent to.
    text = write_markdown(document).encode("utf-8", "replace")
    return [*written, store.write_bytes(f"{folder}/report.md", text)]


def read_summary(store: Store, report: Manifest) -> dict[str, Any]:
    """The numbers that the report stage kept."""
    (path,) = (path for path in report.paths("reports") if path.endswith(".json"))
    return dict(json.loads(store.read(path)))


def _find_figures(report: Manifest) -> list[str]:
    """The paths reports/<figure>/<key>.<digest>.<suffix>; the summary lies one folder higher."""
    return [path for path in report.paths("reports") if len(PurePosixPath(path).parts) == 3]
