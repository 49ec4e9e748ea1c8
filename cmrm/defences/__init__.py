"""Inference-time defences, one file a kind; a package adds its own by an entry point in the group `cmrm.defences`.

Imports `cmrm.steering` and what that imports.
"""

from __future__ import annotations

from types import MappingProxyType

from cmrm.defences.defence import Defence, Materials, OwnShiftDefence, SteppedDefence
from cmrm.plugins import Plugins

__all__ = ["DEFENCES", "Defence", "Materials", "OwnShiftDefence", "SteppedDefence"]

DEFENCES: Plugins[Defence] = Plugins(
    word="defence",
    group="cmrm.defences",
    base=Defence,
    own=MappingProxyType(
        {
            "coca": "cmrm.defences.coca:Coca",
            "direction": "cmrm.defences.direction:AddDirection",
            "ecso": "cmrm.defences.ecso:Ecso",
            "project": "cmrm.defences.project:ProjectOut",
            "prompt": "cmrm.defences.prompt:SafetyPrompt",
            "random": "cmrm.defences.random_shift:RandomShift",
            "shiftdc": "cmrm.defences.shiftdc:ShiftDC",
        }
    ),
)
