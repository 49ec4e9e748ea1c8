"""`cmrm doctor`: check a real model before a long run."""

from __future__ import annotations

import sys
from typing import Literal

CHECK_FAILED = 1


def doctor(
    model: str,
    /,
    *,
    revision: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    attn_implementation: str | None = None,
    image_backend: str | None = None,
    format: Literal["table", "json"] = "table",  # noqa: A002
) -> None:
    """Check that a model's states are read and steered correctly.

    Takes about a minute, on the model itself. Exit status: 0 if every check passes, 1 if one fails.

    Parameters
    ----------
    model
        A model folder, a hub id, `organism`, or a spec (.yaml) whose models are all checked.
    revision
        Revision of a hub id. Default: main. A spec sets this and the next four options itself.
    dtype
        auto, float32, bfloat16 or float16.
    device
        auto, cpu, cuda, or one GPU of several, such as cuda:1.
    attn_implementation
        auto, sdpa, eager, or another attention implementation of transformers.
    image_backend
        auto (pillow if the image processor supports it), pillow or torchvision.
    format
        Print a table, or all findings as JSON.
    """
    from flows.commands.doctor_checks import diagnose

    given = {
        "revision": revision,
        "dtype": dtype,
        "device": device,
        "attn_implementation": attn_implementation,
        "image_backend": image_backend,
    }
    options = {name: value for name, value in given.items() if value is not None}
    if not diagnose(model, options=options, format=format):
        sys.exit(CHECK_FAILED)
