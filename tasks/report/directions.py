"""Directions in a report: harmful against harmless states at every block, and where answers that turned unsafe lie."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cmrm.statistics.auroc import measure_auroc
from cmrm.statistics.labelled_directions import Draws, measure_places
from storage.records.manifest import Manifest
from storage.shards.rows import iterate_all, read_rows
from storage.store import Store
from storage.tables.schemas import KINDS
from tasks.report.outcomes import Arm, Outcomes

Record = Mapping[str, Any]

# Part of the key of reports with directions: raise it when the same rows yield other numbers or figures.
VERSION = 1
PLACES = ("model", "dataset", "sample_id", "condition", "intervention", "alpha", "block", "along")


@dataclass(frozen=True, kw_only=True)
class Directions:
    """What a report says of directions: rows of two tables, and of how answers that turned unsafe lie."""

    directions: tuple[Record, ...] = ()
    cosines: tuple[Record, ...] = ()
    turned: tuple[Record, ...] = ()


def gather_directions(store: Store, made: Sequence[Manifest], outcomes: Outcomes) -> Directions:
    """Gather the rows of a run's directions, in the order of models, conditions and arms."""
    rows = iterate_all(store, made, "directions", KINDS["directions"].schema.names)
    return Directions(
        directions=tuple(_sort(rows)),
        cosines=tuple(iterate_all(store, made, "direction_cosines", KINDS["direction_cosines"].schema.names)),
        turned=tuple(_sort(compare_turned(store, made, outcomes))),
    )


def _sort(rows: Iterable[Record]) -> list[Record]:
    """Sort by arm in the order of their first rows, and by block within each."""
    listed = list(rows)
    arms = {arm: place for place, arm in enumerate(dict.fromkeys(map(name_row, listed)))}
    return sorted(listed, key=lambda row: (arms[name_row(row)], row["block"]))


def compare_turned(store: Store, made: Iterable[Manifest], outcomes: Outcomes) -> Iterator[dict[str, Any]]:
    """Compare answers that turned unsafe with those that stayed safe: places along the text direction, at each block.

    Of the harmful targets that were answered safely as text, by the first judge of safety, those with an unsafe answer
    in an arm are held against those without. `auroc` is the probability that one that turned lies less far along than
    one that stayed. Arms without answers of both kinds are left out.
    """
    places = {(one.dataset, one.sample_id): place for place, one in enumerate(outcomes.samples)}
    for manifest in made:
        table = read_rows(store, manifest, "projections", PLACES)
        samples = zip(table["dataset"].to_pylist(), table["sample_id"].to_pylist(), strict=True)
        numbers = np.array([places[sample] for sample in samples], dtype=int)
        along = table["along"].to_numpy()
        for (arm, block), rows in _group(table).items():
            text = Arm(arm.model, "query")
            if arm == text:
                continue
            # NaN where there is no verdict: of anchors and of harmless questions there is none.
            before, after = (outcomes.pool(one, "unsafe")[numbers[rows]] for one in (text, arm))
            kept = (before == 0) & ~np.isnan(after)
            turned = after[kept] > 0
            if turned.any() and not turned.all():
                yield _describe(arm, block, along[rows][kept], turned)


def _group(table: pa.Table) -> dict[tuple[Arm, int], list[int]]:
    """The rows of each arm and block."""
    found: dict[tuple[Arm, int], list[int]] = {}
    columns = [table[name].to_pylist() for name in ("model", "condition", "intervention", "alpha", "block")]
    for row, (*arm, block) in enumerate(zip(*columns, strict=True)):
        found.setdefault((Arm(*arm), block), []).append(row)
    return found


def _describe(arm: Arm, block: int, along: np.ndarray, turned: np.ndarray) -> dict[str, Any]:
    rows = np.arange(len(along))
    first, second = measure_places(Draws(harmful=turned), along, rows)
    auroc = measure_auroc(-along, turned)
    assert auroc is not None  # there are answers of both kinds
    return {
        **arm._asdict(),
        "block": block,
        "turned": int(turned.sum()),
        "stayed": int((~turned).sum()),
        **{
            f"{name}_along{suffix}": getattr(one, end)
            for name, one in (("turned", first), ("stayed", second))
            for suffix, end in (("", "value"), ("_low", "low"), ("_high", "high"))
        },
        "auroc": auroc.value,
        "auroc_low": auroc.low,
        "auroc_high": auroc.high,
    }


def choose_rows(rows: Sequence[Record]) -> list[Record]:
    """Choose one row for each arm and block: that of the targets, which are held out, or else that of the anchors."""
    held_out = {(name_row(row), row["block"]) for row in rows if row["split"] == "target"}
    return [row for row in rows if row["split"] == "target" or (name_row(row), row["block"]) not in held_out]


def name_row(row: Record) -> Arm:
    """The arm of a row."""
    return Arm(row["model"], row["condition"], row["intervention"], row["alpha"])
