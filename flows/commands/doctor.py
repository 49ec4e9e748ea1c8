"""`cmrm doctor`: checks of a real model."""

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
    format: Literal["table", "json"] = "table",  # noqa: A002
) -> None:
    """Check in a minute, on a real model, that reading and steering do what they say; status 1 if a check fails.

    Parameters
    ----------
    model
        A model folder, a hub id, `organism`, or a spec (.yaml), of which all models are checked as it loads them.
    revision
        The hub revision of a model given by its id; without it main. A spec says these four itself.
    dtype
        auto, float32, bfloat16 or float16.
    device
        auto, cpu, cuda, or one of several such as cuda:1.
    attn_implementation
        auto, sdpa, eager, or another that transformers has.
    format
        A table, or all findings as JSON.
    """
    from flows.doctor import diagnose

    given = {
        "revision": revision,
        "dtype": dtype,
        "device": device,
        "attn_implementation": attn_implementation,
    }
    options = {name: value for name, value in given.items() if value is not None}
    if not diagnose(model, options=options, format=format):
        sys.exit(CHECK_FAILED)
