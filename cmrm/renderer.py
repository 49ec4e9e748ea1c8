"""Render prompts beside the model's work: images are resized in a thread while the device has what came before."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

from transformers import BatchFeature

from cmrm.conditions import Prompt
from cmrm.model import VisionLanguageModel, render
from cmrm.sharing import explain_unshared, group_rows, may_pay


class Renderer:
    """Renders in another thread than the model's, with a processor of its own, since a tokenizer serves one thread."""

    def __init__(self, vlm: VisionLanguageModel) -> None:
        self.vlm = replace(vlm, processor=copy.deepcopy(vlm.processor))

    def render(self, prompts: Sequence[Prompt]) -> BatchFeature | None:
        """Prompts as `cmrm.model.render` gives them; None where they may share something, which goes first."""
        images = sum(prompt.image is not None for prompt in prompts)
        if explain_unshared(self.vlm, images=images) is None and may_pay(group_rows(prompts)):
            return None
        return render(self.vlm, prompts)
