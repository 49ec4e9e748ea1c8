"""The parts of Δ in a report: rows of `shift_parts`, and a figure of their shares over the blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cmrm.steering.parts import COMPARED, PARTS
from storage.records.manifest import Manifest
from storage.shards.rows import iterate_all
from storage.store import Store
from tasks.report.figure import PALETTE, SHAPES, Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]

KIND = "shift_parts"
# Part of the key of reports with parts: raise it when the same rows yield other numbers or figures.
VERSION = 1
MEASURES = ("norm", "share", "cosine")
COLUMNS = (
    "model",
    "image",
    "block",
    "part",
    "anchors",
    "state",
    *(f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")),
)
ORDER = (*PARTS, "all", COMPARED)
COLORS: Mapping[str, str] = {
    **{part: PALETTE[place] for place, part in enumerate(PARTS)},
    "all": "#000000",
    COMPARED: "#7F7F7F",
}
# Inches: of a panel, and of each block in it.
LEAST_WIDTH, PER_BLOCK, HEIGHT = 3.2, 0.16, 2.8


def read_parts(store: Store, made: Iterable[Manifest]) -> list[dict[str, Any]]:
    """Read the parts of a run's shifts, in the order of models, images, blocks and parts."""
    rows = list(iterate_all(store, made, KIND, COLUMNS))
    models, images = ([*dict.fromkeys(row[name] for row in rows)] for name in ("model", "image"))
    return sorted(
        rows,
        key=lambda row: (
            models.index(row["model"]),
            images.index(row["image"]),
            row["block"],
            ORDER.index(row["part"]),
        ),
    )


def group_parts(rows: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """Group rows by model and meaningless image."""
    found: dict[tuple[str, str], list[Record]] = {}
    for row in rows:
        found.setdefault((row["model"], row["image"]), []).append(row)
    return found


def draw_parts(rows: Sequence[Record]) -> list[Figure]:
    """Draw one figure per model: for each meaningless image, the stacked shares of Δ's parts and their lengths."""
    groups = group_parts(rows)
    return [
        _draw_model(number + 1, model, groups)
        for number, model in enumerate(dict.fromkeys(m for m, _ in groups))
    ]


def _draw_model(number: int, model: str, groups: Mapping[tuple[str, str], list[Record]]) -> Figure:
    own = {image: rows for (name, image), rows in groups.items() if name == model}
    blocks = max(len({row["block"] for row in rows}) for rows in own.values())

    def draw(axes: list[list[Axes]]) -> None:
        for (shares, lengths), (image, rows) in zip(axes, own.items(), strict=True):
            _stack(shares, rows)
            shares.set_title(f"Δ of {image}, {rows[0]['anchors']} anchors")
            _plot_lengths(lengths, rows)
        for one in axes[-1]:
            one.set_xlabel("block")

    return Figure(
        name=f"parts-{number}",
        caption=f"{model}: Δ taken apart at each block, with 95 % bootstrap intervals over anchors. Left: the share of "
        "each part along Δ; they add up to 100 %. Right: the lengths of the parts and of Δ, and that of filler text.",
        rows=len(own),
        columns=2,
        size=(max(LEAST_WIDTH, PER_BLOCK * blocks), HEIGHT),
        draw=draw,
        data=[dict(row) for rows in own.values() for row in rows],
    )


def _stack(axes: Axes, rows: Sequence[Record]) -> None:
    """Stack the shares of each block: those above 0 upwards from it, those below downwards."""
    ends: dict[int, list[float]] = {}
    for place, part in enumerate(PARTS):
        for row in _select(rows, part, "share"):
            block, share = row["block"], 100 * row["share"]
            sides = ends.setdefault(block, [0.0, 0.0])
            side = int(share < 0)
            axes.bar(block, share, bottom=sides[side], width=0.8, color=COLORS[part], alpha=0.85)
            sides[side] += share
            if row["share_low"] is not None:
                # Beside each other, so that the intervals of a block do not overlap.
                axes.errorbar(
                    block + 0.22 * (place - 1),
                    sides[side],
                    yerr=[
                        [max(0.0, share - 100 * row["share_low"])],
                        [max(0.0, 100 * row["share_high"] - share)],
                    ],
                    color="0.15",
                    elinewidth=0.7,
                    capsize=1.2,
                )
    axes.axhline(0, color="0.5", linewidth=0.6)
    axes.axhline(100, color="0.5", linewidth=0.6, linestyle="--")
    axes.set_ylabel("share of Δ (%)")


def _plot_lengths(axes: Axes, rows: Sequence[Record]) -> None:
    for part in ORDER:
        kept = _select(rows, part, "norm")
        if not kept:
            continue
        blocks = [row["block"] for row in kept]
        axes.plot(
            blocks,
            [row["norm"] for row in kept],
            color=COLORS[part],
            marker=SHAPES[ORDER.index(part)],
            markersize=3,
            linewidth=1,
            linestyle=":" if part == COMPARED else "-",
            label="Δ" if part == "all" else part,
        )
        if all(row["norm_low"] is not None for row in kept):
            low, high = ([row[f"norm_{end}"] for row in kept] for end in ("low", "high"))
            axes.fill_between(blocks, low, high, color=COLORS[part], alpha=0.15, linewidth=0)
    axes.set_ylabel("length")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=6)


def _select(rows: Sequence[Record], part: str, measure: str) -> list[Record]:
    return [row for row in rows if row["part"] == part and row[measure] is not None]


def choose_blocks(blocks: Sequence[int], most: int) -> list[int]:
    """Choose at most so many blocks, evenly spread, with the first and the last."""
    if len(blocks) <= most:
        return list(blocks)
    return sorted({blocks[round(place * (len(blocks) - 1) / (most - 1))] for place in range(most)})


def index_block(rows: Sequence[Record], block: int) -> dict[str, Record]:
    """The rows of one block by part."""
    return {row["part"]: row for row in rows if row["block"] == block}


def list_blocks(rows: Iterable[Record]) -> Iterator[int]:
    """The blocks of some rows, each once."""
    yield from dict.fromkeys(row["block"] for row in rows)
