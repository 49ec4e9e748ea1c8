"""A tiny random model of each family, with its real processor class, saved to a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from tests.conformance.builders import gemma, llava

BUILDERS: Mapping[str, Callable[[Path], Path]] = MappingProxyType(
    {
        "gemma3": gemma.build_gemma3,
        "llava": llava.build_llava,
        "llava_next": llava.build_llava_next,
        "llava_onevision": llava.build_llava_onevision,
        "paligemma": gemma.build_paligemma,
        "vipllava": llava.build_vipllava,
    }
)
# Their processors do not load without torchvision.
NEED_TORCHVISION = frozenset({"llava_onevision"})
