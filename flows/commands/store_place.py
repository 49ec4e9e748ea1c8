"""The option `--store` of the commands."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from storage.records.layout import DEFAULT_STORE

__all__ = ["DEFAULT_STORE", "StorePlace"]

StorePlace = Annotated[str, Parameter(env_var="CMRM_STORE")]
