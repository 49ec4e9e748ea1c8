"""Settings of an intervention, positions of states, and defaults, importable without torch."""

from __future__ import annotations

from typing import Literal, get_args

Level = Literal["dataset", "sample"]
Method = Literal["mean", "pca"]
# What of a dataset-level Δ is measured: all of it, or one of its parts (`cmrm.steering.parts`).
Part = Literal["all", "positions", "marks", "image"]
# Which tokens: the last of the prompt; that and every generated one; every text token; image tokens too.
Scope = Literal["prefill", "every_step", "all", "every_position"]
Composition = Literal["direct", "incremental"]
# How much of a direction a state-dependent intervention takes from a state (`cmrm.steering.projection`).
Gate = Literal["projection", "cosine", "relu"]

# Where a state is read: at the last prompt token; at the last image token; the mean over all image tokens; at the first
# token of the model's own answer (`cmrm.decoding.positions`).
Position = Literal["last", "last_image", "mean_image", "first_answer"]
POSITIONS: tuple[Position, ...] = get_args(Position)
# Positions that a prompt without image tokens does not have.
IMAGE_POSITIONS: frozenset[Position] = frozenset(("last_image", "mean_image"))

# Scopes that change states before the last prompt token, so that such an arm prefills its prompt by itself.
WHOLE_PROMPT: frozenset[str] = frozenset(("all", "every_position"))

# Principal directions that are measured of labelled states (`cmrm.steering.direction`).
MOST_COMPONENTS = 8

# Measured in docs/decisions/method.md: `direct` shifts at many blocks add up, and answers break.
DEFAULT_SCOPE: Scope = "every_step"
DEFAULT_COMPOSITION: Composition = "incremental"
