"""Kind `random`: Δ turned into a random direction, the control that shows whether a direction matters or any push."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cmrm.defences.defence import Defence, Materials
from cmrm.errors import UserError
from cmrm.prompts.conditions import Condition, Meaningless
from cmrm.steering.blocks import BlockWord, check_blocks, choose_blocks
from cmrm.steering.settings import DEFAULT_COMPOSITION, DEFAULT_SCOPE, Composition, Method, Scope

if TYPE_CHECKING:
    from torch import Tensor

    from cmrm.models.vlm import VisionLanguageModel
    from cmrm.steering.intervention import Intervention

# What torch's generators take, and one more.
MOST_SEED = 2**63


@dataclass(frozen=True, kw_only=True)
class RandomShift(Defence):
    """Subtracts αQΔ, where Q is a random rotation: as long as αΔ at each block, and as similar between blocks.

    `seed` draws Q; the other options are those of the intervention that it is a control of.
    """

    kind: ClassVar[str] = "random"

    seed: int = 0
    image: Meaningless = "blank"
    method: Method = "mean"
    blocks: BlockWord | Sequence[int] = "upper_half"
    scope: Scope = DEFAULT_SCOPE
    composition: Composition = DEFAULT_COMPOSITION

    @property
    def shift_from(self) -> tuple[Condition, Method] | None:
        return self.image, self.method

    def check(self) -> None:
        check_blocks(self.blocks)
        if not 0 <= self.seed < MOST_SEED:
            raise UserError(f"seed is {self.seed}; give a whole number from 0 to 2⁶³ − 1.")

    def build(
        self, vlm: VisionLanguageModel, materials: Materials, *, alpha: float | None
    ) -> Intervention | None:
        from cmrm.steering.intervention import Intervention

        blocks = choose_blocks(vlm, self.blocks)
        return Intervention(
            delta=rotate(materials.need_shift().choose(blocks), seed=self.seed),
            alpha=1.0 if alpha is None else alpha,
            blocks=blocks,
            scope=self.scope,
            composition=self.composition,
        )


def rotate(vectors: Tensor, *, seed: int) -> Tensor:
    """Rotate vectors [n, hidden] by one random rotation, uniform over all; lengths and angles stay."""
    import torch

    # A rotation needs to be known on the vectors' span alone: their coordinates there, in a random frame.
    basis, coordinates = torch.linalg.qr(vectors.double().cpu().T)
    drawn = torch.randn(basis.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    frame, upper = torch.linalg.qr(drawn)
    # QR alone is not uniform: the signs of its diagonal are.
    frame = frame * upper.diagonal().sign()
    return (frame @ coordinates).T.float().contiguous()
