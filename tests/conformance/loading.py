"""Build a family's tiny model and load it as a user's own is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cmrm.models.family_table import FAMILIES
from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import VisionLanguageModel
from tests.conformance.builders import BUILDERS

Load = Callable[[str], VisionLanguageModel]


def load_tiny(family: str, folder: Path) -> VisionLanguageModel:
    """The family's tiny model in float32, built into an empty folder."""
    identity = resolve_model(str(BUILDERS[family](folder)))
    vlm = load_model(identity, dtype="float32", device="cpu", attn_implementation=FAMILIES[family].attention)
    if family == "aria":
        # Its class has 980 pixels whatever its image processor says; it takes 490 as well, in a quarter of the time.
        vlm.processor.images_kwargs = {"max_image_size": 490, "split_image": False}
    return vlm
