"""Errors that the user can fix; two of them may be transient and worth a retry."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in the user's input: the message says what is wrong, where, and how to fix it.

    >>> import cmrm
    >>> try:
    ...     cmrm.load_model("./nowhere")
    ... except cmrm.UserError as error:
    ...     print(error)
    model.id: no folder './nowhere'; give a folder or a hub id such as llava-hf/llava-1.5-7b-hf.
    """


class ModelUnavailableError(UserError):
    """A model that is unavailable at present: its folder or commit is gone, or the hub does not respond."""


class ModelChangedError(UserError):
    """A model whose files no longer match its revision, so that nothing may be stored under it."""


class MissingPackageError(UserError):
    """An optional package that is not installed, without which files of a data set cannot be read."""
