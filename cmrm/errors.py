"""The errors that a person, not a programmer, has to mend; two of them may mend themselves."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in what the user gave: the message says what is wrong, where, and how to mend it."""


class ModelUnavailableError(UserError):
    """A model that is not to be had just now: its folder or commit is gone, or the hub does not answer."""


class ModelChangedError(UserError):
    """A model whose files are not those any more that its identity names, so that nothing may be kept under it."""
