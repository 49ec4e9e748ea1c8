"""Derive and examine the types of `SEEN` as tiny models: `python -m tests.conformance.unlisted [TYPE…]`.

Says of each what is found, and ends with status 1 if that is not what `SEEN` says. It needs torchvision on the path.
"""

from __future__ import annotations

import logging
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests.conformance.program import admit_torchvision
from tests.conformance.unlisted.seen import SEEN, Seen


def main() -> None:
    """Examine the types that are named, or all."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    # Transformers is imported later, when torchvision can be.
    _operators = admit_torchvision()
    wrong = [name for name in sys.argv[1:] or SEEN if not _agrees(name, see(name))]
    if wrong:
        raise SystemExit(
            f"seen otherwise than said in tests/conformance/unlisted/seen.py: {', '.join(wrong)}"
        )


def see(name: str) -> Seen:
    """What a type's tiny model is found to be, without remarks but why it is not read in a faster way."""
    from cmrm.doctor.admission import admit
    from cmrm.errors import UserError
    from cmrm.models.attention import UnsupportedAttentionError
    from cmrm.models.derived_family import derive_model
    from cmrm.models.loading import load_model
    from cmrm.models.revision import resolve_model

    with tempfile.TemporaryDirectory() as folder:
        identity = resolve_model(str(_find_builder(name)(Path(folder))))

        def load(attention: Any) -> Any:
            return load_model(
                identity, dtype="float32", device="cpu", attn_implementation=attention, prepare=derive_model
            )

        try:
            try:
                vlm = load("sdpa")
            except UnsupportedAttentionError:
                vlm = load("eager")
            admission = admit(vlm, where=name).admission
        except UserError as error:
            check = re.search("fails the check “(.+?)”: (.*?)Give a row", str(error))
            return Seen(fails=check[1], remark=check[2].strip()) if check else Seen(fails=str(error))
    assert admission is not None
    return Seen(way=admission.way, remark=admission.reason)


def _find_builder(name: str) -> Any:
    from tests.conformance.unlisted import documents, mixtures, qwen, tiles

    return next(
        found
        for module in (documents, mixtures, qwen, tiles)
        if (found := getattr(module, f"build_{name}", None)) is not None
    )


def _agrees(name: str, found: Seen) -> bool:
    expected = SEEN[name]
    agrees = (found.way, found.fails) == (expected.way, expected.fails)
    what = found.way or f"fails “{found.fails}”"
    said = f"{name}: {what}{f' ({found.remark})' if found.remark else ''}{'' if agrees else '  ✗'}"
    sys.stdout.write(f"{said}\n")
    return agrees


if __name__ == "__main__":
    main()
