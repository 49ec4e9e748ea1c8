"""Build a family's tiny model and load it as a user's own is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from cmrm.loading import Attention, load_model
from cmrm.model import VisionLanguageModel
from cmrm.revision import resolve_model
from tests.conformance.builders import BUILDERS

Load = Callable[[str], VisionLanguageModel]
# Gemma 2, the backbone of PaliGemma 2, runs on no other in transformers.
ATTENTION: Mapping[str, Attention] = MappingProxyType({"paligemma": "eager"})


def load_tiny(family: str, folder: Path) -> VisionLanguageModel:
    """The family's tiny model in float32, built into an empty folder."""
    identity = resolve_model(str(BUILDERS[family](folder)))
    return load_model(
        identity, dtype="float32", device="cpu", attn_implementation=ATTENTION.get(family, "sdpa")
    )
