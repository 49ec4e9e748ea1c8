"""Kind `direction`: add a labelled direction (mean of harmful − mean of harmless) to hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from cmrm.defences.defence import Defence, Materials
from cmrm.prompts.conditions import Condition
from cmrm.steering.blocks import BlockWord, check_blocks, choose_blocks
from cmrm.steering.settings import Scope

if TYPE_CHECKING:
    from cmrm.models.vlm import VisionLanguageModel
    from cmrm.steering.intervention import Intervention


@dataclass(frozen=True, kw_only=True)
class AddDirection(Defence):
    """Adds α times the labelled direction r at some blocks: h ← h + α · r, Arditi's addition at one block.

    `states` is the condition of the anchors on which r was measured: `query` (text only) or `image`.
    Source: Arditi et al., refusal direction, there at every position and one block.
    """

    kind: ClassVar[str] = "direction"

    states: Literal["query", "image"] = "query"
    blocks: BlockWord | Sequence[int] = "middle"
    scope: Scope = "every_position"

    @property
    def direction_from(self) -> Condition | None:
        return self.states

    def check(self) -> None:
        check_blocks(self.blocks)

    def build(
        self, vlm: VisionLanguageModel, materials: Materials, *, alpha: float | None
    ) -> Intervention | None:
        from cmrm.steering.intervention import Intervention

        blocks = choose_blocks(vlm, self.blocks)
        # Interventions subtract.
        return Intervention(
            delta=-materials.need_direction().choose(blocks).difference,
            alpha=1.0 if alpha is None else alpha,
            blocks=blocks,
            scope=self.scope,
            composition="direct",
        )
