"""What the tests of the watch have in common."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path


def write_watched_spec(
    write_spec: Callable[..., Path], folder: Path, llava: Path, model: str | None = None
) -> Path:
    """The spec of a random LLaVA that lies in the folder `model` beside it, of as few jobs as a verdict needs.

    With `model`, of that one on a hub. What a steered model's runs come to is watched with the embedded one.
    """
    if model is None:
        model = shutil.copytree(llava, folder / "model")
    return write_spec(
        folder,
        Path(model),
        datasets={"vlsafe": {"format": "vlsafe", "path": "examine.jsonl", "images": "images"}},
        anchors={"from": {}},
        conditions=["image"],
        target_states=[],
        interventions=[],
        generation={"max_new_tokens": 2},
        batch_size=8,
        shard_size=64,
    )


def change(model: Path) -> None:
    """Give a model another revision, with the same answers."""
    config = model / "config.json"
    config.write_text(config.read_text() + " ")
