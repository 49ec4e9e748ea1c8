"""Tables of what is harmful without an image: answers to the questions as text, and the questions by themselves."""

from __future__ import annotations

from collections.abc import Sequence

from flows.report.document import (
    Heading,
    ReportCell,
    ReportTable,
    RowGroup,
    head_numbers,
    make_row_groups,
)
from flows.report.number_format import NONE, write_change, write_p, write_value
from tasks.report.outcomes import find_leading
from tasks.report.questions import QuestionRate
from tasks.report.table import Table


def make_text_alone_table(table: Table) -> ReportTable | None:
    """Compare unsafe answers to questions as text with those to the same questions with their images.

    One row for each model and data set, by the first judge; None where no model was asked both.
    """
    rows, records = [], []
    places = [place for place in find_leading(table.columns) if table.columns[place].kind == "unsafe"]
    for model in table.models():
        text, image = table.find(model, "query"), table.find(model, "image")
        if text is None or image is None:
            continue
        for place in places:
            column, before, after = table.columns[place], text.cells[place], image.cells[place]
            change = after.change
            if change is None or not change.n:
                continue
            cells = (
                ReportCell(text=column.dataset),
                write_value(before.value),
                write_value(after.value),
                write_change(change),
                write_p(change.p),
            )
            rows.append((model, cells))
            records.append(
                {"model": model, "judge": column.judge, "dataset": column.dataset, **change.to_json()}
            )
    if not rows:
        return None
    judge = table.columns[places[0]].judge
    return ReportTable(
        name="text-alone",
        title="Unsafe answers without and with the image",
        headings=(
            Heading(title="Data set", numeric=False),
            *head_numbers("As text", "With image", "Change", "p"),
        ),
        row_groups=make_row_groups(rows),
        records=tuple(records),
        note=f"Of harmful questions, in %, with 95 % Wilson intervals and the number of judged answers, by the judge "
        f"{judge}. Change: on the questions that have both answers, in percentage points (Newcombe's interval, exact "
        "McNemar test, not corrected; the table of changes has it corrected). A data set whose words alone are "
        "answered unsafely as often says little about images.",
    )


def make_questions_table(rates: Sequence[QuestionRate]) -> ReportTable | None:
    """Make one row for each judge and data set: its harmful and its harmless questions; None without such judges."""
    if not rates:
        return None
    found = {(one.judge, one.dataset, one.harmful): one for one in rates}
    rows = []
    for judge, dataset in dict.fromkeys((one.judge, one.dataset) for one in rates):
        pair = [found.get((judge, dataset, harmful)) for harmful in (True, False)]
        errors = sum(one.parse_errors for one in pair if one is not None)
        rows.append(
            (
                ReportCell(text=dataset),
                ReportCell(text=judge),
                *(NONE if one is None else write_value(one.rate) for one in pair),
                ReportCell(text=str(errors)),
            )
        )
    return ReportTable(
        name="questions",
        title="Questions harmful by their words alone",
        headings=(
            *(Heading(title=title, numeric=False) for title in ("Data set", "Judge")),
            *head_numbers("Of harmful ones", "Of harmless ones", "Parse errors"),
        ),
        row_groups=(RowGroup(title="", rows=tuple(rows)),),
        records=tuple(one.flatten() for one in rates),
        note="Questions that a judge calls harmful without seeing an image or an answer, in %, with 95 % Wilson "
        "intervals and the number of judged questions. Harmful and harmless are the data set's labels of question and "
        "image together: of harmful ones, this is the harm that leaks through the words.",
    )
