"""Kind `project`: subtract from each state a part along labelled directions that depends on the state itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from cmrm.defences.defence import Defence, Materials
from cmrm.errors import UserError
from cmrm.prompts.conditions import Condition
from cmrm.steering.blocks import BlockWord, check_blocks, choose_blocks
from cmrm.steering.settings import MOST_COMPONENTS, Gate, Scope

if TYPE_CHECKING:
    from cmrm.models.vlm import VisionLanguageModel
    from cmrm.steering.projection import Projection


@dataclass(frozen=True, kw_only=True)
class ProjectOut(Defence):
    """h ← h − α · Σ g(h) · v with the gate of `cmrm.steering.projection.Projection`.

    v is the labelled direction r (mean of harmful − mean of harmless) as a unit vector, or with `count` k > 1 the
    first k principal directions of the harmful states about the harmless mean. `states` is the condition of the
    anchors on which they were measured. `center` is the mean that a gate measures from: how harmful a state looks.
    `towards: harmful` adds what `harmless` subtracts, so that a state that looks harmful moves on to where a model
    refuses. `relu` moves a state by at most the distance between the two means.

    With the defaults this is the ablation of the refusal direction (Arditi et al.), a control that makes models
    comply; k > 1 is VLM-Guard's subspace, `cosine` ASTRA's form, `relu` with a centre that of MARS.
    """

    kind: ClassVar[str] = "project"

    states: Literal["query", "image"] = "query"
    count: int = 1
    gate: Gate = "projection"
    center: Literal["none", "harmless", "harmful"] = "none"
    towards: Literal["harmless", "harmful"] = "harmless"
    blocks: BlockWord | Sequence[int] = "all"
    scope: Scope = "every_position"

    @property
    def direction_from(self) -> Condition | None:
        return self.states

    def check(self) -> None:
        check_blocks(self.blocks)
        if not 1 <= self.count <= MOST_COMPONENTS:
            raise UserError(f"count is {self.count}; give 1 to {MOST_COMPONENTS} directions.")
        if self.count > 1 and self.gate != "projection":
            raise UserError(f"gate {self.gate} is for one direction; leave out count.")

    def build(
        self, vlm: VisionLanguageModel, materials: Materials, *, alpha: float | None
    ) -> Projection | None:
        from cmrm.steering.projection import Projection

        blocks = choose_blocks(vlm, self.blocks)
        found = materials.need_direction().choose(blocks)
        directions = found.take_components(self.count) if self.count > 1 else found.unit[:, None]
        centers = {"none": None, "harmless": found.harmless, "harmful": found.harmful}
        return Projection(
            directions=directions,
            blocks=blocks,
            alpha=1.0 if alpha is None else alpha,
            sign=-1 if self.towards == "harmful" else 1,
            scope=self.scope,
            gate=self.gate,
            reference=centers[self.center],
            limit=found.difference.norm(dim=-1) if self.gate == "relu" else None,
        )
