"""What every section of a spec is: frozen, and strict about the names of its fields."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a spec."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
