"""Tables of directions: harmful against harmless states, angles with Δ, and answers that turned unsafe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from flows.report.document import Heading, ReportCell, ReportTable, RowGroup, head_numbers, make_row_groups
from flows.report.number_format import NONE, percent, plain
from flows.report.tables.parts import NAMES
from tasks.report.directions import choose_rows, name_row
from tasks.report.model_names import shorten_models
from tasks.report.outcomes import Arm
from tasks.report.parts import choose_blocks
from tasks.report.table import CONDITION_NAMES, name_arm

Record = Mapping[str, Any]
# The first, the middle and the last; the figure, SQL and the CSV have all.
MOST_BLOCKS = 3


def make_directions_table(rows: Sequence[Record]) -> ReportTable | None:
    """Make the table of directions and probes, one row for each arm and shown block."""
    if not rows:
        return None
    return ReportTable(
        name="directions",
        title="Harmful against harmless states",
        headings=(
            Heading(title="Arm", numeric=False),
            *head_numbers("Block", "Harmful", "Harmless", "Length", "% of the states’", "Cosine with text"),
            *head_numbers("Harmful lie at", "Harmless lie at", "AUROC"),
        ),
        row_groups=_group(choose_rows(rows), _write_direction),
        records=tuple(dict(row) for row in rows),
        note=_explain(rows),
    )


def make_cosines_tables(rows: Sequence[Record]) -> Iterator[ReportTable]:
    """Make one table for each model of the cosines between labelled directions and Δ, a column for each shown block."""
    names = shorten_models(list(dict.fromkeys(row["model"] for row in rows)))
    for number, model in enumerate(names):
        own = [row for row in rows if row["model"] == model]
        blocks = list_shown(own)
        lines: dict[tuple[str, str, str], dict[int, Record]] = {}
        for row in own:
            lines.setdefault((row["condition"], row["image"], row["part"]), {})[row["block"]] = row
        of = f", {names[model]}" if len(names) > 1 else ""
        yield ReportTable(
            name=f"direction-cosines-{number + 1}",
            title=f"Cosine of labelled directions with Δ{of}",
            headings=(
                *(Heading(title=title, numeric=False) for title in ("Direction", "Δ of", "Part")),
                *head_numbers(*(f"Block {block}" for block in blocks)),
            ),
            row_groups=(
                RowGroup(
                    title="",
                    rows=tuple(
                        (
                            ReportCell(text=CONDITION_NAMES[condition]),
                            ReportCell(text=image),
                            ReportCell(text=NAMES.get(part, part)),
                            *(_write(found.get(block), "cosine") for block in blocks),
                        )
                        for (condition, image, part), found in lines.items()
                    ),
                ),
            ),
            records=tuple(dict(row) for row in own),
            note="Of the anchors, with 95 % bootstrap intervals over them. Below 0, what the image adds points from "
            "harmful towards harmless; near 0, elsewhere.",
        )


def make_turned_table(rows: Sequence[Record]) -> ReportTable | None:
    """Make the table of where answers that turned unsafe lie along the text direction."""
    if not rows:
        return None
    return ReportTable(
        name="turned",
        title="Answers that turned unsafe",
        headings=(
            Heading(title="Arm", numeric=False),
            *head_numbers("Block", "Turned", "Stayed safe", "Turned lie at", "Stayed lie at", "AUROC"),
        ),
        row_groups=_group(rows, _write_turned),
        records=tuple(dict(row) for row in rows),
        note="Harmful targets that were answered safely as text: those answered unsafely in an arm, and those still "
        "answered safely. Places are along the direction of the anchors as text, where 0 is the mean of the harmless "
        "and 1 that of the harmful. AUROC: the probability that one that turned lies less far along than one that "
        "stayed.",
    )


def _explain(rows: Sequence[Record]) -> str:
    shown = choose_rows(rows)
    note = (
        "Length of the mean harmful state less the mean harmless one, with 95 % bootstrap intervals over samples, and "
        "its cosine with that of the anchors as text. States lie at 0 where the mean harmless anchor lies as text "
        "along that direction, and at 1 where the mean harmful one does. AUROC of a linear probe that was trained on "
        "the anchors’ plain states under the same condition, less those whose question a target asks, and tested on "
        "targets, with Newcombe’s 95 % interval. All intervals take samples as independent; the mean of one sample has "
        "none. The first, the middle and the last block; SQL has all."
    )
    if any(row["tested"] == "folds" for row in shown):
        note += (
            " Where no states of targets are stored, probes are tested in five folds of the anchors, and their "
            "intervals are too narrow."
        )
    missing = dict.fromkeys(row["missing"] for row in shown if row["missing"])
    return note + "".join(f" No AUROC: {reason}." for reason in missing)


def _group(rows: Sequence[Record], write: Callable[[Record], tuple[ReportCell, ...]]) -> tuple[RowGroup, ...]:
    """The rows of the shown blocks, by model."""
    names = shorten_models(list(dict.fromkeys(row["model"] for row in rows)))
    blocks = {model: list_shown(row for row in rows if row["model"] == model) for model in names}
    shown = [row for row in rows if row["block"] in blocks[row["model"]]]
    return make_row_groups([(row["model"], write(row)) for row in shown], names)


def list_shown(rows: Iterable[Record]) -> list[int]:
    """List the blocks that tables show of one model's rows."""
    return choose_blocks(sorted({row["block"] for row in rows}), MOST_BLOCKS)


def _write_direction(row: Record) -> tuple[ReportCell, ...]:
    return (
        ReportCell(text=name_arm_of(row)),
        *(ReportCell(text=f"{row[name]:,}") for name in ("block", "harmful", "harmless")),
        _write(row, "norm"),
        NONE
        if row["norm"] is None or not row["state"]
        else ReportCell(text=percent(row["norm"] / row["state"])),
        *(_write(row, name) for name in ("text_cosine", "harmful_along", "harmless_along", "auroc")),
    )


def _write_turned(row: Record) -> tuple[ReportCell, ...]:
    return (
        ReportCell(text=name_arm_of(row)),
        *(ReportCell(text=f"{row[name]:,}") for name in ("block", "turned", "stayed")),
        *(_write(row, name) for name in ("turned_along", "stayed_along", "auroc")),
    )


def name_arm_of(row: Record) -> str:
    """Name the arm of a row, and say where its states are those of anchors."""
    arm: Arm = name_row(row)
    return name_arm(arm) if row.get("split") != "anchor" else f"{name_arm(arm)} (anchors)"


def _write(row: Record | None, name: str) -> ReportCell:
    if row is None or row[name] is None:
        return NONE
    return ReportCell(text=plain(row[name]), low=plain(row[f"{name}_low"]), high=plain(row[f"{name}_high"]))
