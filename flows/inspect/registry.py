"""What Inspect finds under the name `cmrm`: the module of the entry point, imported at each of its starts.

It imports neither torch nor a store: what is named here imports its own module when it is used.
"""

from __future__ import annotations

from flows.inspect.scorers import SCORERS, cmrm_judge
from flows.inspect.tasks import TASKS

__all__ = ["SCORERS", "TASKS", "cmrm_judge"]
