"""Interventions of a spec as jobs have them: with the keys of what was measured for each."""

from __future__ import annotations

from collections.abc import Mapping

from flows.spec.interventions import DefenceSpec, InterventionSpec
from flows.spec.spec import name_shift
from tasks.states.shift import ShiftName
from tasks.states.steering import DefenceUse, Steering

# Keys of dataset-level shifts by meaningless image, method and part.
Shifts = Mapping[ShiftName, str]
# Keys of labelled directions by condition.
Directions = Mapping[str, str]


def make_use(
    intervention: InterventionSpec | DefenceSpec,
    alpha: float | None,
    shifts: Shifts,
    directions: Directions,
) -> Steering | DefenceUse:
    """Make an intervention at a strength, from the keys of what was measured for it."""
    name = name_shift(intervention)
    if isinstance(intervention, DefenceSpec):
        defence = intervention.defence
        return DefenceUse(
            name=intervention.name,
            kind=intervention.kind,
            alpha=alpha,
            options=intervention.options,
            direction=None if defence.direction_from is None else directions[defence.direction_from],
            shift=None if name is None else shifts[name],
        )
    assert alpha is not None  # CMRM always has a strength
    blocks = intervention.blocks
    return Steering(
        name=intervention.name,
        level=intervention.level,
        image=intervention.image,
        method=intervention.method,
        alpha=alpha,
        blocks=tuple(blocks) if isinstance(blocks, list) else blocks,
        scope=intervention.scope,
        composition=intervention.composition,
        shift=None if name is None else shifts[name],
    )
