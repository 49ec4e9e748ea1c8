"""Kind `coca`: logits under a safety principle, pushed away from those without it, at each token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from cmrm.defences.defence import Defence
from cmrm.defences.prompt import MARK, PRESETS
from cmrm.errors import UserError
from cmrm.prompts.conditions import Prompt


@dataclass(frozen=True, kw_only=True)
class Coca(Defence):
    """Constitutional calibration: logits = with + α · (with − without) a principle, greedy, one answer for both.

    `principle` is a template that holds `{question}`. The prompt with the principle and the plain one are decoded side
    by side and share the image's prefill.
    Source: CoCA (its authors published no code); α = 4 as re-implemented in OmniSafeBench-MM.
    """

    kind: ClassVar[str] = "coca"
    default_alpha: ClassVar[float | None] = 4.0

    principle: str = PRESETS["safety-prompt"]

    def change_prompt(self, prompt: Prompt) -> Prompt:
        return replace(prompt, text=self.principle.replace(MARK, prompt.text))

    def contrast(self, alpha: float | None) -> float | None:
        return alpha

    def check(self) -> None:
        if MARK not in self.principle:
            raise UserError(
                f"the principle does not hold {MARK}, so the question would not be asked; put it in."
            )
