"""Errors of a run's environment."""

from __future__ import annotations

from cmrm.errors import UserError


class ServerLostError(UserError):
    """The Prefect server stopped answering during a run, which cannot continue without it."""
