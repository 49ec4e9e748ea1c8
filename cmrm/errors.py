"""The one error that a person, not a programmer, has to mend."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in what the user gave: the message says what is wrong, where, and how to mend it."""
