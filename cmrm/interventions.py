"""The words of an intervention and what they are where nothing is said: for specs too, which are read without torch."""

from __future__ import annotations

from typing import Literal

Level = Literal["dataset", "sample"]
Method = Literal["mean", "pca"]
Scope = Literal["prefill", "every_step", "all"]
Composition = Literal["direct", "incremental"]

# Measured in docs/decisions.md: whole shifts at many blocks pile up, and answers break.
DEFAULT_SCOPE: Scope = "every_step"
DEFAULT_COMPOSITION: Composition = "incremental"
