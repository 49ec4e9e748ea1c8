"""Refuse interventions at blocks that the model lacks, before anything is answered."""

from __future__ import annotations

from collections.abc import Iterable

from cmrm.errors import UserError
from cmrm.untrusted.printable import show_value
from storage.shards.rows import need_manifest
from storage.store import Store
from tasks.core.stage_name import StageName
from tasks.states.steering import DefenceUse, Steering, Use, list_leaves


def refuse_missing_blocks(uses: Iterable[Use], store: Store) -> None:
    """Raise `UserError` for a block number beyond those at which its Δ or direction was measured: all of the model's.

    A sample-level Δ is measured while answers are generated, and its blocks are checked there.
    """
    for leaf in (leaf for use in uses for leaf in list_leaves(use)):
        count, last = _count_measured(leaf, store), _find_last_block(leaf)
        if count is not None and last is not None and last >= count:
            raise UserError(
                f"interventions.blocks: no block {last} in this model; it has blocks 0 to {count - 1}; correct "
                f"{show_value(leaf.name)}."
            )


def _count_measured(leaf: Steering | DefenceUse, store: Store) -> int | None:
    direction = leaf.direction if isinstance(leaf, DefenceUse) else None
    stage, key = (StageName.DIRECTION, direction) if direction is not None else (StageName.SHIFT, leaf.shift)
    return None if key is None else need_manifest(store, stage, key).rows


def _find_last_block(leaf: Steering | DefenceUse) -> int | None:
    blocks = leaf.options.get("blocks") if isinstance(leaf, DefenceUse) else leaf.blocks
    return max(blocks) if isinstance(blocks, list | tuple) else None
