"""Kind `shiftdc`: subtract the part of a question's own shift, image against caption, that lies along safety."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from cmrm.defences.defence import Materials, OwnShiftDefence, SteppedDefence
from cmrm.prompts.captions import CAPTION_PROMPTS, CaptionPrompt
from cmrm.prompts.conditions import Condition, Prompt
from cmrm.steering.blocks import BlockWord, check_blocks, choose_blocks
from cmrm.steering.settings import Scope

if TYPE_CHECKING:
    from torch import Tensor

    from cmrm.models.vlm import VisionLanguageModel
    from cmrm.steering.intervention import Intervention


@dataclass(frozen=True, kw_only=True)
class ShiftDC(SteppedDefence, OwnShiftDefence):
    """Subtracts α · proj(m, s) at the last prompt token, m = state(image) − state(caption) of the question itself.

    s is the labelled direction (mean of harmful − mean of harmless anchors) under the condition `states`. The caption
    is the model's own, asked for by `caption`; it stands on its own line above the question.
    Source: Zou et al., ShiftDC; prefill alone, the upper half of the blocks, α = 1.
    """

    kind: ClassVar[str] = "shiftdc"

    states: Literal["query", "caption", "image"] = "query"
    blocks: BlockWord | Sequence[int] = "upper_half"
    scope: Scope = "prefill"
    caption: str = CAPTION_PROMPTS["plain"]

    def check(self) -> None:
        check_blocks(self.blocks)

    @property
    def direction_from(self) -> Condition | None:
        return self.states

    @property
    def steps(self) -> tuple[str, ...]:
        return ("caption",)

    def ask(self, step: str, prompt: Prompt, earlier: Mapping[str, str]) -> Prompt:  # noqa: ARG002 - none is needed
        captioning = self.caption_prompt(step)
        return prompt if captioning is None else captioning.ask(prompt)

    def step_spec(self, step: str) -> Mapping[str, str]:
        return {"caption": self.caption} if step == "caption" else self.spec()

    def caption_prompt(self, step: str) -> CaptionPrompt | None:
        return CaptionPrompt(style="plain", text=self.caption) if step == "caption" else None

    def pair(self, prompt: Prompt, earlier: Mapping[str, str]) -> tuple[Prompt, Prompt]:
        return prompt, replace(prompt, text=f"{earlier['caption']}\n{prompt.text}", image=None)

    def own_blocks(self, vlm: VisionLanguageModel) -> tuple[int, ...]:
        return choose_blocks(vlm, self.blocks)

    def build_own(
        self, vlm: VisionLanguageModel, materials: Materials, delta: Tensor, *, alpha: float | None
    ) -> Intervention:
        from cmrm.steering.intervention import Intervention

        blocks = self.own_blocks(vlm)
        safety = materials.need_direction().choose(blocks).unit.to(delta.device)
        along = (delta * safety).sum(dim=-1, keepdim=True)
        return Intervention(
            delta=along * safety,
            alpha=1.0 if alpha is None else alpha,
            blocks=blocks,
            scope=self.scope,
            composition="direct",
        )
