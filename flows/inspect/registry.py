"""What Inspect finds under the name `cmrm`: the module of the entry point, imported at each of its starts.

It imports neither torch nor a store: what is named here imports its own module when it is used.
"""

from __future__ import annotations

from inspect_ai.model import ModelAPI, modelapi

from flows.inspect.scorers import SCORERS, cmrm_judge
from flows.inspect.tasks import TASKS

__all__ = ["SCORERS", "TASKS", "cmrm_judge", "provide_model"]


@modelapi(name="cmrm")
def provide_model() -> type[ModelAPI]:
    """The provider of models `cmrm/…`: a model, or an arm of a run or of a spec."""
    from flows.inspect.provider import SteeredModelAPI

    return SteeredModelAPI
