"""The type of options of texts that may be given several times."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

# Each time with one value: a second one would be the command's own argument.
Repeatable = Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=False, show_default=False)]
