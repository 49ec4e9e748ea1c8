"""Interventions as jobs carry them, and as a batch meets them: Δ found or measured, blocks chosen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cmrm.conditions import Condition
from cmrm.errors import UserError
from storage.rows import need_manifest
from storage.store import Store
from tasks.prompts import Showing, Shown, quarantine_row

if TYPE_CHECKING:
    from torch import Tensor

    from cmrm.model import VisionLanguageModel
    from cmrm.prefix import Prefixes
    from cmrm.shift import Shift
    from cmrm.steering import Intervention

# Why a sample is set aside whose own Δ half precision has made so.
NOT_FINITE = "its sample-level Δ is not finite; use dtype bfloat16 or float32"


@dataclass(frozen=True, kw_only=True)
class Steering:
    """An intervention as a job carries it: `shift` is the key of a dataset-level Δ, or None for the sample level."""

    name: str
    level: str
    image: Condition
    method: str
    alpha: float
    blocks: str | tuple[int, ...]
    scope: str
    composition: str
    shift: str | None

    def content(self, showing: Showing) -> dict[str, Any]:
        """What of it determines states and answers: its Δ, not its name."""
        return {
            "level": self.level,
            "shift": self.shift or showing.content(self.image),
            "alpha": self.alpha,
            "blocks": self.blocks,
            "scope": self.scope,
            "composition": self.composition,
            # Rounded to the model's dtype once; before, αΔ was rounded too, and half precision made another of it.
            "subtracted_in": "float32",
        }


def intervene(
    steering: Steering,
    *,
    store: str,
    vlm: VisionLanguageModel,
    showing: Showing,
    shown: Shown,
    stage: str,
    prefixes: Prefixes | None = None,
) -> tuple[Shown, Intervention | None]:
    """Make the intervention for a batch, and set aside the samples whose own Δ is not finite.

    None when no sample is left. With `prefixes`, what prompts share is read once where Δ is measured on the batch.
    Raises `UserError` for a block that the model does not have.
    """
    blocks = choose_blocks(vlm, steering.blocks)
    delta = _find_delta(
        steering, store=store, vlm=vlm, showing=showing, shown=shown, blocks=blocks, prefixes=prefixes
    )
    shown, delta = _set_aside_not_finite(shown, delta, stage)
    if not shown.samples:
        return shown, None
    return shown, make_intervention(steering, delta, blocks)


def make_intervention(steering: Steering, delta: Tensor, blocks: tuple[int, ...]) -> Intervention:
    """The intervention that subtracts this Δ, [blocks, hidden] or [rows, blocks, hidden]."""
    from cmrm.steering import Intervention

    return Intervention(
        delta=delta,
        alpha=steering.alpha,
        blocks=blocks,
        scope=steering.scope,  # type: ignore[arg-type] # checked by Intervention
        composition=steering.composition,  # type: ignore[arg-type] # as above
    )


def _find_delta(
    steering: Steering,
    *,
    store: str,
    vlm: VisionLanguageModel,
    showing: Showing,
    shown: Shown,
    blocks: tuple[int, ...],
    prefixes: Prefixes | None,
) -> Tensor:
    """Δ for a batch: [blocks, hidden] at dataset level, [rows, blocks, hidden] at sample level."""
    from cmrm.shift import measure_sample_shift

    if steering.shift is not None:
        return load_shift_once(store, steering.shift).choose(blocks).to(vlm.device)
    return measure_sample_shift(
        vlm,
        with_image=[showing.show(stored, steering.image) for stored in shown.samples],
        text_only=[showing.show(stored, "query") for stored in shown.samples],
        blocks=blocks,
        prefixes=prefixes,
    )


def _set_aside_not_finite(shown: Shown, delta: Tensor, stage: str) -> tuple[Shown, Tensor]:
    """Quarantine the samples whose own Δ is not finite, as half precision can make it; the others go on."""
    if delta.dim() == 2:
        return shown, delta
    finite = delta.isfinite().flatten(1).all(dim=1)
    kept = [row for row, good in enumerate(finite.tolist()) if good]
    aside = [
        quarantine_row(stored, stage=stage, reason=NOT_FINITE)
        for stored, good in zip(shown.samples, finite.tolist(), strict=True)
        if not good
    ]
    rest = Shown(
        samples=[shown.samples[row] for row in kept],
        prompts=[shown.prompts[row] for row in kept],
        quarantined=[*shown.quarantined, *aside],
    )
    return rest, delta[finite]


def choose_blocks(vlm: VisionLanguageModel, blocks: str | tuple[int, ...]) -> tuple[int, ...]:
    """The blocks that a spec's word or numbers mean; raises `UserError` for one that the model does not have."""
    count = len(vlm.blocks)
    if blocks == "all":
        return tuple(range(count))
    if blocks == "upper_half":
        return tuple(range(count // 2, count))
    if blocks == "middle":
        return (count // 2,)
    if blocks == "last":
        return (count - 1,)
    chosen = tuple(int(block) for block in blocks)
    if chosen[-1] >= count:
        raise UserError(
            f"interventions.blocks: no block {chosen[-1]} in this model; it has blocks 0 to {count - 1}."
        )
    return chosen


# A dataset-level Δ is one small file that every batch of a job needs.
@lru_cache(maxsize=8)
def load_shift_once(url: str, key: str) -> Shift:
    """A dataset-level Δ by its key, read and verified once."""
    from cmrm.shift import load_shift

    store = Store.open(url)
    manifest = need_manifest(store, "shift", key)
    return load_shift(store.local_path(manifest.path("shifts")))
