"""Terminal output of `cmrm store`: aligned tables, with control characters in stored text escaped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

from flows.terminal.safe_text import show_safely
from flows.terminal.table import TableColumn, make_table
from storage.maintenance.diff import Change, RunDifference, describe_values
from storage.maintenance.gc import Garbage
from storage.maintenance.inventory import Inventory
from storage.maintenance.verify import Checked
from storage.records.manifest import Manifest

if TYPE_CHECKING:
    from rich.table import Table

# Longer lists are cut, and the rest counted.
MOST_LINES = 20
SHOWN_DIGITS = 12


def print_store(console: Console, inventory: Inventory) -> None:
    """Print the runs, then the stages with their manifests, rows and sizes, then unreferenced files."""
    runs = _title_table("run", "started", "status", "model")
    for run in sorted(inventory.runs, key=lambda one: str(one.get("created_at"))):
        started = str(run.get("created_at"))[:16].replace("T", " ")
        status = "killed" if run["run_id"] in inventory.dead else run.get("status")
        _add(runs, run["run_id"], started, status, run.get("model"))
    console.print(runs if inventory.runs else "No runs yet.")
    console.print()
    stages = _title_table(
        "stage", "manifests", "files", "rows", "size", numeric=("manifests", "files", "rows", "size")
    )
    by_stage: dict[str, list[Manifest]] = {}
    for manifest in inventory.manifests:
        by_stage.setdefault(manifest.stage, []).append(manifest)
    for stage, manifests in by_stage.items():
        _add(stages, stage, *_sum_up(manifests))
    _add(stages, "all", *_sum_up(inventory.manifests))
    console.print(stages)
    _print_leftovers(console, inventory)


def print_run(console: Console, inventory: Inventory, run: Mapping[str, Any]) -> None:
    """Print every manifest that a run used, in the order of its stages."""
    by_key = {manifest.key: manifest for manifest in inventory.manifests}
    table = _title_table("stage", "key", "rows", "size", "made", numeric=("rows", "size"))
    for key in map(str, run.get("keys") or ()):
        if manifest := by_key.get(key):
            size = decimal(sum(file.bytes for file in manifest.files))
            made = manifest.created_at[:16].replace("T", " ")
            _add(table, manifest.stage, key[:SHOWN_DIGITS], f"{manifest.rows:,}", size, made)
        else:
            _add(table, "missing", key[:SHOWN_DIGITS], "", "", "")
    console.print(table)


def print_verified(console: Console, inventory: Inventory, checked: Sequence[Checked]) -> None:
    """Print the damaged files with their faults, then a summary line."""
    faults = [one for one in checked if one.fault]
    for one in faults:
        text = one.fault if one.fault and one.path in one.fault else f"{one.path}: {one.fault}"
        console.print(Text(show_safely(str(text))), soft_wrap=True)
    size = decimal(sum(one.bytes for one in checked))
    records = len(inventory.manifests) + len(inventory.runs)
    if faults:
        console.print(
            f"{len(faults)} damaged or missing; {size} were read. They count as missing: run the spec again to "
            "recompute them. A damaged run record has to be deleted by hand."
        )
    else:
        console.print(f"All files verified: {len(checked):,} files ({size}) named by {records:,} records.")
    _print_leftovers(console, inventory)


def print_garbage(console: Console, garbage: Sequence[Garbage]) -> None:
    """Print the first unused files, and their total count and size by reason."""
    for one in garbage[:MOST_LINES]:
        console.print(Text(show_safely(one.path)), soft_wrap=True)
    if len(garbage) > MOST_LINES:
        console.print(f"… and {len(garbage) - MOST_LINES:,} more")
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for one in garbage:
        sizes[one.reason] += one.bytes
        counts[one.reason] += 1
    for reason, count in counts.items():
        console.print(f"{count:,} files, {decimal(sizes[reason])}: {reason}")
    if not garbage:
        console.print("No unused files.")


def print_removed(console: Console, removed: Sequence[Garbage]) -> None:
    """Print how many files and bytes were deleted."""
    console.print(f"Removed {len(removed):,} files, {decimal(sum(one.bytes for one in removed))}.")


def print_difference(console: Console, difference: RunDifference, names: Sequence[str]) -> None:
    """Print the changed fields of the spec, then the stages whose content differs."""
    if difference.missing:
        console.print(f"{difference.missing} manifests that they used are missing from the store.")
    if difference.same:
        console.print(Text(f"{names[0]} and {names[1]} are the same: spec, inputs and outputs."))
        return
    if difference.spec:
        console.print("spec")
        _print_changes(console, difference.spec)
    table = _title_table("stage", "both", *names, numeric=("both", *names))
    for one in difference.stages:
        _add(table, one.stage, one.both, one.first, one.second)
    console.print(table)
    for one in difference.stages:
        if one.changes:
            console.print(Text(one.stage))
            _print_changes(console, one.changes)


def _print_changes(console: Console, changes: Iterable[Change]) -> None:
    for change in changes:
        line = f"  {change.path}: {' → '.join(map(describe_values, change.values))}"
        console.print(Text(show_safely(line)), soft_wrap=True)


def _print_leftovers(console: Console, inventory: Inventory) -> None:
    for paths, meaning in (
        (inventory.parts, "partial files of unfinished shards"),
        (inventory.leases, "leases of running (or killed) processes"),
        (inventory.heartbeats, "heartbeats of running (or killed) runs"),
        (inventory.images, "images extracted from rows of data sets"),
        (inventory.loose, "files that no record names (cmrm store gc)"),
        (inventory.unfinished, "half-written files (cmrm store gc)"),
        (inventory.others, "manifests of another release"),
        (inventory.foreign, "files that are not the store's own"),
    ):
        if paths:
            console.print(f"{len(paths):,} {meaning}")


def _sum_up(manifests: Sequence[Manifest]) -> tuple[str, str, str, str]:
    files = [file for manifest in manifests for file in manifest.files]
    rows = sum(file.rows or 0 for file in files)
    return f"{len(manifests):,}", f"{len(files):,}", f"{rows:,}", decimal(sum(file.bytes for file in files))


def _title_table(*names: str, numeric: Sequence[str] = ()) -> Table:
    return make_table(
        TableColumn(title=Text(show_safely(name)), justify="right" if name in numeric else "left")
        for name in names
    )


def _add(table: Table, *cells: object) -> None:
    table.add_row(*(Text(show_safely(str(cell))) for cell in cells))
