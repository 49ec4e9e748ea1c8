"""The errors that a person, not a programmer, has to mend."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in what the user gave: the message says what is wrong, where, and how to mend it."""


class ModelChangedError(UserError):
    """A model's files changed between its identity's being found out and its being loaded."""
