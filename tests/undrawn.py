"""Figures with less drawn than a report has, for tests of other things: drawing takes as long as all else of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tasks.report import figure

# As wide as the widest that are drawn.
PICTURE = b'<svg xmlns="http://www.w3.org/2000/svg" width="1296" height="378"/>'


@contextmanager
def undrawn() -> Iterator[None]:
    """Let every file of a figure's picture hold the same empty one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure, "_save", lambda *_: PICTURE)
        yield


@contextmanager
def without_pixels() -> Iterator[None]:
    """Draw figures as SVG, and leave their PNG empty."""
    save = figure._save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure, "_save", lambda *how: save(*how) if how[1] == "svg" else b"")
        yield
