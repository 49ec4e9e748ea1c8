"""Examine families' tiny models in a process of its own: `python -m tests.conformance.program FOLDER PARTS FAMILY…`.

Writes what `examine_families` does. Where torchvision is on the path, this process can use its transforms: transformers
decides when it is imported whether it is there, so no other process of the tests may see it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import torch


def main() -> None:
    """Examine the families that are named, in the parts that are, with commas between."""
    folder, parts, *families = sys.argv[1:]
    torch.set_num_threads(1)
    # Transformers is imported later, when torchvision can be.
    _operators = admit_torchvision()
    from tests.conformance.examination import examine_families

    examine_families(Path(folder), parts.split(","), families)


def admit_torchvision() -> torch.library.Library | None:
    """Let torchvision be imported where its compiled part does not fit this torch, as long as the result is kept.

    A module of it asks for the signatures of two operators, which no image processor ever calls.
    """
    if importlib.util.find_spec("torchvision") is None:
        return None
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
    else:
        return None
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    importlib.import_module("torchvision")
    return operators


if __name__ == "__main__":
    main()
