"""Lets a process import torchvision beside a torch for CPUs alone; Python imports this file when it starts.

The index has torchvision for CUDA only. Its own operators do not load then, and it asks for the signatures of two,
which no image processor calls.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder


class _DefineOperators(MetaPathFinder):
    """Declares the operators when torchvision is about to be imported, and finds nothing."""

    def find_spec(self, name, _path, _target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            for one in ("nms", "qnms"):
                torch.library.define(
                    f"torchvision::{one}", "(Tensor dets, Tensor scores, float threshold) -> Tensor"
                )


sys.meta_path.insert(0, _DefineOperators())
