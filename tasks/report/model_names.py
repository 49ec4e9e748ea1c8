"""Short names of models, for tables and figures."""

from __future__ import annotations

from collections.abc import Sequence

# A model's name ends with the first digits of its revision.
REVISION_MARK = "@"


def shorten_model(model: str) -> str:
    """A model's name without its revision."""
    return model.rpartition(REVISION_MARK)[0] or model


def shorten_models(models: Sequence[str]) -> dict[str, str]:
    """Shorten model names by dropping the revision, unless that makes two names equal."""
    short = {model: shorten_model(model) for model in models}
    shared = [name for name in short.values() if list(short.values()).count(name) > 1]
    return {model: model if name in shared else name for model, name in short.items()}
