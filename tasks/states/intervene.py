"""Interventions applied to a batch: load or measure Δ, choose blocks, change prompts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from cmrm.defences import Materials, OwnShiftDefence
from cmrm.errors import UserError
from cmrm.steering.blocks import choose_blocks
from storage.records.hashing import digest_file
from storage.shards.rows import need_manifest
from storage.store import Store
from tasks.core.stage_name import StageName
from tasks.shards.prompts import PromptBuilder, Shown, quarantine_row
from tasks.states.steering import (
    DefenceUse,
    FileSteering,
    Steering,
    StepUse,
    Use,
    list_leaves,
    needs_own_shift,
)

if TYPE_CHECKING:
    from torch import Tensor

    from cmrm.models.vlm import VisionLanguageModel
    from cmrm.prefix.planner import Prefixes
    from cmrm.steering.direction import LabelledDirection
    from cmrm.steering.intervention import Intervention
    from cmrm.steering.intervention import Steering as Acting
    from cmrm.steering.projection import Projection
    from cmrm.steering.shift import Shift

# Quarantine reason for a sample-level Δ that overflowed in half precision.
NOT_FINITE = "its sample-level Δ is not finite; use dtype bfloat16 or float32"

Blocks = tuple[int, ...]


def intervene(
    use: Use,
    *,
    store: str,
    vlm: VisionLanguageModel,
    showing: PromptBuilder,
    shown: Shown,
    stage: str,
    prefixes: Prefixes | None = None,
) -> tuple[Shown, Acting | None]:
    """Make an intervention for a batch, with the prompts that it asks, and quarantine samples without a finite Δ.

    None if it changes no state. With `prefixes`, the prefill of shared prefixes runs once where Δ is measured.
    Raises `UserError` for a block that the model does not have.
    """
    own: dict[int, Tensor] = {}
    for number, leaf in enumerate(list_leaves(use)):
        if needs_own_shift(leaf) and shown.samples:
            if isinstance(leaf, Steering):
                delta = _measure(leaf, vlm=vlm, showing=showing, shown=shown, prefixes=prefixes)
            else:
                delta = _measure_pairs(use, leaf, store=store, vlm=vlm, shown=shown, prefixes=prefixes)
            shown, kept, delta = _quarantine_not_finite(shown, delta, stage)
            own = {**{known: one[kept] for known, one in own.items()}, number: delta}
    asked = [
        use.ask(prompt, stored.sample.id, store)
        for stored, prompt in zip(shown.samples, shown.prompts, strict=True)
    ]
    if any(one is not plain for one, plain in zip(asked, shown.prompts, strict=True)):
        shown = Shown(samples=shown.samples, prompts=asked, quarantined=shown.quarantined)
    if not shown.samples:
        return shown, None
    return shown, build_acting(use, own, store=store, vlm=vlm)


def build_acting(
    use: Use, own: Mapping[int, Tensor], *, store: str, vlm: VisionLanguageModel
) -> Acting | None:
    """Make what changes hidden states; `own` holds by leaf the sample-level Δ at its blocks, [rows, blocks, hidden].

    None if nothing does. Raises `UserError` for a block that the model does not have.
    """
    from cmrm.steering.intervention import Stack, list_parts

    parts: list[Intervention | Projection] = []
    for number, leaf in enumerate(list_leaves(use)):
        if isinstance(leaf, Steering):
            blocks = choose_blocks(vlm, leaf.blocks)
            delta = (
                own[number] if leaf.shift is None else _load_own(leaf, store).choose(blocks).to(vlm.device)
            )
            parts.append(make_intervention(leaf, delta, blocks))
        elif isinstance(leaf.defence, OwnShiftDefence):
            found = _load_materials(leaf, store)
            parts += list_parts(leaf.defence.build_own(vlm, found, own[number], alpha=leaf.alpha))
        else:
            parts += list_parts(leaf.defence.build(vlm, _load_materials(leaf, store), alpha=leaf.alpha))
    if len(parts) > 1:
        return Stack(parts=tuple(parts))
    return parts[0] if parts else None


def _load_own(leaf: Steering, store: str) -> Shift:
    """Load the dataset-level Δ of an intervention, from its file or by its key."""
    assert leaf.shift is not None  # a Δ of each sample's own is measured and not loaded
    if isinstance(leaf, FileSteering):
        return _load_file_once(leaf)
    return load_shift_once(store, leaf.shift)


def find_own_blocks(vlm: VisionLanguageModel, leaf: Steering | DefenceUse) -> Blocks:
    """Find the blocks at which an intervention measures a Δ of each sample's own."""
    if isinstance(leaf, Steering):
        return choose_blocks(vlm, leaf.blocks)
    assert isinstance(leaf.defence, OwnShiftDefence)  # asked for leaves with a Δ of their own alone
    return leaf.defence.own_blocks(vlm)


def make_intervention(steering: Steering, delta: Tensor, blocks: Blocks) -> Intervention:
    """Make the intervention that subtracts this Δ, [blocks, hidden] or [rows, blocks, hidden]."""
    from cmrm.steering.intervention import Intervention

    return Intervention(
        delta=delta,
        alpha=steering.alpha,
        blocks=blocks,
        scope=steering.scope,  # type: ignore[arg-type] # checked by Intervention
        composition=steering.composition,  # type: ignore[arg-type] # as above
    )


def _load_materials(use: DefenceUse, store: str) -> Materials:
    return Materials(
        direction=None if use.direction is None else load_direction_once(store, use.direction),
        shift=None if use.shift is None else load_shift_once(store, use.shift),
    )


def _measure(
    steering: Steering,
    *,
    vlm: VisionLanguageModel,
    showing: PromptBuilder,
    shown: Shown,
    prefixes: Prefixes | None,
) -> Tensor:
    """Measure the sample-level Δ of a batch: [rows, blocks, hidden]."""
    from cmrm.steering.shift import measure_sample_shift

    return measure_sample_shift(
        vlm,
        with_image=[showing.show(stored, steering.image) for stored in shown.samples],
        text_only=[showing.show(stored, "query") for stored in shown.samples],
        blocks=choose_blocks(vlm, steering.blocks),
        prefixes=prefixes,
    )


def _measure_pairs(
    use: Use,
    leaf: DefenceUse,
    *,
    store: str,
    vlm: VisionLanguageModel,
    shown: Shown,
    prefixes: Prefixes | None,
) -> Tensor:
    """Measure what a step subtracts from each sample of a batch, between two prompts: [rows, blocks, hidden]."""
    from cmrm.steering.capture import embed

    assert isinstance(use, StepUse)  # no other defence measures between prompts of its own
    pairs = [
        use.pair(prompt, stored.sample.id, store)
        for stored, prompt in zip(shown.samples, shown.prompts, strict=True)
    ]
    before, after = (
        embed(vlm, prompts, blocks=find_own_blocks(vlm, leaf), prefixes=prefixes)
        for prompts in zip(*pairs, strict=True)
    )
    return before - after


def _quarantine_not_finite(shown: Shown, delta: Tensor, stage: str) -> tuple[Shown, list[int], Tensor]:
    """Quarantine the samples whose own Δ is not finite, as can happen in half precision; the rows that are left."""
    finite = delta.isfinite().flatten(1).all(dim=1)
    kept = [row for row, good in enumerate(finite.tolist()) if good]
    quarantined = [
        quarantine_row(stored, stage=stage, reason=NOT_FINITE)
        for stored, good in zip(shown.samples, finite.tolist(), strict=True)
        if not good
    ]
    rest = Shown(
        samples=[shown.samples[row] for row in kept],
        prompts=[shown.prompts[row] for row in kept],
        quarantined=[*shown.quarantined, *quarantined],
    )
    return rest, kept, delta[finite]


# A dataset-level Δ is one small file that every batch of a job needs.
@lru_cache(maxsize=8)
def load_shift_once(url: str, key: str) -> Shift:
    """Load a dataset-level Δ by its key; read and verified once."""
    from cmrm.steering.shift import load_shift

    store = Store.open(url)
    manifest = need_manifest(store, StageName.SHIFT, key)
    return load_shift(store.local_path(manifest.path("shifts")))


@lru_cache(maxsize=8)
def _load_file_once(steering: FileSteering) -> Shift:
    from cmrm.steering.shift import load_shift

    if digest_file(steering.file) != steering.shift:
        raise UserError(f"shift: {steering.file.name} has changed since it was named; start again.")
    return load_shift(steering.file)


@lru_cache(maxsize=8)
def load_direction_once(url: str, key: str) -> LabelledDirection:
    """Load a labelled direction by its key; read and verified once."""
    from cmrm.steering.direction import load_direction

    store = Store.open(url)
    manifest = need_manifest(store, StageName.DIRECTION, key)
    return load_direction(store.local_path(manifest.path("directions")))
