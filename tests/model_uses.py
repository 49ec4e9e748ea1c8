"""A run's use of a model folder, as its spec gives one that names nothing else."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from cmrm.models.revision import resolve_model
from tasks.core.models import ModelUse


def use_folder(folder: Path) -> ModelUse:
    """Use the model in a folder in float32 on the processor."""
    return ModelUse(
        identity=resolve_model(str(folder)),
        label=None,
        dtype="float32",
        device="cpu",
        attn_implementation="sdpa",
        system=None,
        image_backend=f"pillow {version('pillow')}",
    )
