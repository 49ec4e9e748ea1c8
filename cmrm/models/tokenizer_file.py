"""Whether a folder's tokenizer.json can be read, told by name where it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cmrm.untrusted.printable import first_line

NAME = "tokenizer.json"


def explain_broken_tokenizer(folder: Path) -> str | None:
    """Explain why a folder's tokenizer.json cannot be read; None if it can, or if there is none."""
    file = folder / NAME
    if not file.is_file():
        return None
    # transformers would import torch.
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_file(str(file))
    except Exception as error:  # noqa: BLE001 # the library raises plain exceptions
        return f"its {NAME} cannot be read ({first_line(error)})"
    return None


@contextmanager
def name_broken_tokenizer(folder: Path) -> Iterator[None]:
    """Raise `ValueError` with the reason for whatever is raised meanwhile, if a folder's tokenizer.json is broken.

    transformers lets through what the library raises, or trips over the file before that.
    """
    try:
        yield
    except Exception as error:
        reason = explain_broken_tokenizer(folder)
        if reason is None:
            raise
        raise ValueError(reason) from error
