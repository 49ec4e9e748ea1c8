"""Examine families' tiny models in a process of its own: `python -m tests.conformance.program FAMILY…`.

Prints a line of JSON a family: its name and findings, or the error that kept it from being examined. Where torchvision
is on the path, this process can use its transforms: transformers decides when it is imported whether it is there, so no
other process of the tests may see it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
import tempfile
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

# The builders' processors take it as it is, or make it smaller.
IMAGE_SIZE = 32
# Strips and single pixels, which some processors refuse.
ODD_SIZES = ((640, 2), (2, 640), (1, 1), (2, 2), (3, 3))


def main() -> None:
    """Examine the families that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="+", metavar="FAMILY")
    names = parser.parse_args().families
    torch.set_num_threads(1)
    # Transformers is imported later, when torchvision can be.
    _operators = admit_torchvision()
    for name in names:
        print(json.dumps(examine_tiny(name)), flush=True)


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


def examine_tiny(name: str) -> dict[str, Any]:
    """Build, load and examine a family's tiny model: its name, its findings, and the error where it did not load."""
    from cmrm.doctor import run_checks
    from tests.conformance.loading import load_tiny

    with tempfile.TemporaryDirectory() as folder:
        try:
            vlm = load_tiny(name, Path(folder))
        except Exception as error:  # noqa: BLE001 # whatever it is, the other families are still to be examined
            traceback.print_exc(file=sys.stderr)
            return {"family": name, "error": f"{type(error).__name__}: {error}", "findings": []}
        findings = [asdict(finding) for finding in run_checks(vlm, image_size=IMAGE_SIZE)]
        odd = {f"{width}x{height}": show_odd(vlm, width, height) for width, height in ODD_SIZES}
    return {"family": name, "error": None, "findings": findings, "odd": odd}


def show_odd(vlm: Any, width: int, height: int) -> dict[str, Any]:
    """Show an image of an odd size beside an ordinary one: which rows are read, why others are not, and any error."""
    from PIL import Image

    from cmrm.capture import embed
    from cmrm.conditions import Prompt
    from cmrm.renderer import Renderer

    sizes = [(width, height), (IMAGE_SIZE, IMAGE_SIZE)]
    prompts = [Prompt(text="what is it?", image=Image.new("RGB", size, (90, 120, 30))) for size in sizes]
    try:
        rendered = Renderer(vlm).render(prompts)
        kept = [prompts[row] for row in rendered.kept]
        states = embed(vlm, kept, blocks=[0], rendered=rendered.inputs)
        return {
            "kept": list(rendered.kept),
            "refused": {str(row): why for row, why in rendered.refused.items()},
            "error": None if bool(states.isfinite().all()) else "states are not finite",
        }
    except Exception as error:  # noqa: BLE001 # whatever it is, it would have ended a run
        traceback.print_exc(file=sys.stderr)
        return {"kept": [], "refused": {}, "error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main()
