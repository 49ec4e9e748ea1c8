"""The option `--store` of the commands."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

DEFAULT_STORE = "./cmrm-store"

StorePlace = Annotated[str, Parameter(env_var="CMRM_STORE")]
