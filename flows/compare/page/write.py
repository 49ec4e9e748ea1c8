"""Write the page of two or more runs to their store, beside the comparisons."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from rich.console import Console
from rich.text import Text

from flows.compare.page.answers import describe_lonely, join_answers, read_run_answers
from flows.compare.page.runs import (
    find_images,
    find_run_differences,
    list_interventions,
    name_commonly,
    order_arms,
    read_page_runs,
)
from flows.compare.page.sections import make_page_document
from flows.report.answers_data import make_page_data
from flows.report.file_names import name_comparison_page, shorten_url
from flows.report.writers.html import write_html
from flows.terminal.safe_text import show_safely
from storage.store import Store
from tasks.compare.figures import draw_changes, draw_shift_changes
from tasks.compare.result import RunComparison

NONE_GIVEN: Mapping[str, float | None] = MappingProxyType({})


def write_comparison_page(
    store: Store,
    comparisons: Sequence[RunComparison],
    *,
    store_name: str,
    overrides: Mapping[str, float | None] = NONE_GIVEN,
) -> str:
    """Write the page of comparisons with one first run, and return its path in the store.

    `store_name` is the store's path for display, `overrides` are thresholds that no spec states. Raises `UserError`
    for too many runs, and `UserError` or `StoreError` if a result that it shows is missing.
    """
    names = [comparisons[0].before.run_id, *(found.after.run_id for found in comparisons)]
    runs = read_page_runs(store, names)
    interventions = list_interventions(runs)
    ordered = [
        order_arms(name_commonly(found, runs[0], run), interventions)
        for run, found in zip(runs[1:], comparisons, strict=True)
    ]
    by_letter = {run.letter: found for run, found in zip(runs[1:], ordered, strict=True)}
    figures = [one for one in (draw_changes(by_letter), draw_shift_changes(by_letter)) if one is not None]
    sides = read_run_answers(store, runs, ordered, interventions=interventions)
    answers = join_answers(sides, ordered, interventions=interventions)
    images, lacking = find_images(store, runs)
    document = make_page_document(
        runs,
        ordered,
        figures=figures,
        differences=find_run_differences(store, runs),
        notes=[*describe_lonely(sides), *lacking],
        command=" ".join(
            [
                "cmrm compare",
                *names,
                *(
                    f"--{name.replace('_', '-')} {value}"
                    for name, value in overrides.items()
                    if value is not None
                ),
                f"--html --store {shlex.quote(store_name)}",
            ]
        ),
    )
    page = write_html(
        document,
        figures={one.name: one.save()["svg"] for one in figures},
        answers=make_page_data(
            answers,
            images=images,
            names={arm.model: arm.model for arm in answers.arms},
        ),
        stimuli=(),
        total=answers.total,
        command=f'cmrm sql --store {shlex.quote(store_name)} --run {names[-1]} "FROM responses"',
    )
    path = name_comparison_page(names)
    store.write_bytes(path, page.encode("utf-8", "replace"))
    return path


def write_and_tell(
    store: Store, comparisons: Sequence[RunComparison], *, overrides: Mapping[str, float | None] = NONE_GIVEN
) -> None:
    """Write the page, and print where it is; raises as `write_comparison_page` does."""
    name = shorten_url(store.url)
    path = write_comparison_page(store, comparisons, store_name=name, overrides=overrides)
    Console().print(Text(show_safely(f"Page: {name}/{path}")), soft_wrap=True)
