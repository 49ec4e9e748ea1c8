"""What goes wrong around a run."""

from __future__ import annotations

from cmrm.errors import UserError


class ServerLostError(UserError):
    """Prefect's server, without which no run goes on, was there and does not answer any more."""
