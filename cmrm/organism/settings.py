"""Steering settings of the organism, tuned on its validation questions and never on its test questions."""

from __future__ import annotations

from typing import Literal

BLOCKS = (5, 6, 7)
SCOPE: Literal["prefill", "every_step", "all"] = "every_step"
COMPOSITION: Literal["direct", "incremental"] = "incremental"
DATASET_ALPHA = 1.0
SAMPLE_ALPHA = 0.7
MAX_NEW_TOKENS = 24
ANCHOR_FRACTION = 0.2
SPLIT_SEED = 42
