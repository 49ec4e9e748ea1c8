"""Verify the checksums of a store under a progress bar."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from storage.maintenance.inventory import Inventory
from storage.maintenance.verify import Checked, count_bytes, verify
from storage.store import Store


def verify_with_bar(store: Store, inventory: Inventory) -> list[Checked]:
    """Verify every file, with a progress bar over bytes if stderr is a terminal."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("verify"),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("verify", total=count_bytes(inventory))
        checked = []
        for one in verify(store, inventory):
            checked.append(one)
            bar.advance(task, one.bytes)
    return checked
