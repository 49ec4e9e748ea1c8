"""Prompt builders of a spec's data sets."""

from __future__ import annotations

from pathlib import Path

from cmrm.prompts.conditions import make_meaningless
from flows.spec.spec import Spec
from tasks.data.sources import find_image_folder
from tasks.shards.prompts import PromptBuilder


def make_prompt_builder(spec: Spec, dataset: str, *, store: str, system: str | None = None) -> PromptBuilder:
    """Make the prompt builder of a data set."""
    images, folder = spec.images, spec.datasets[dataset].images
    red, green, blue = images.color
    return PromptBuilder(
        images=find_image_folder(folder if isinstance(folder, Path) else None, store=store, dataset=dataset),
        meaningless=make_meaningless(size=images.size, color=(red, green, blue), seed=images.seed),
        system=system,
    )
