"""Measure and remove the shift that an image causes in the hidden states of a vision-language model.

The names below are the Python API (`docs/python.md`). Each is imported when it is first used, so that `import cmrm`
takes no time: torch comes with the first name that needs it.
"""

from __future__ import annotations

# True to type checkers, by its name; typing itself is as dear to import as all else here.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from cmrm.api.answers import generate, judge
    from cmrm.api.models import check, load_model
    from cmrm.api.prompts import make_prompt
    from cmrm.api.states import hidden_states, measure_shift, save_shift
    from cmrm.api.steer import steer
    from cmrm.datasets import read_dataset
    from cmrm.datasets.splits import split
    from cmrm.decoding.requests import Answer, Answers
    from cmrm.doctor.examination import Finding
    from cmrm.errors import UserError
    from cmrm.judges.judge import Verdict
    from cmrm.models.vlm import VisionLanguageModel
    from cmrm.prompts.conditions import Prompt
    from cmrm.prompts.media import Audio, Medium, Video
    from cmrm.prompts.sample import Sample
    from cmrm.steering.intervention import Intervention
    from cmrm.steering.proof import SteeringProof
    from cmrm.steering.shift import Shift, load_shift

__all__ = [
    "Answer",
    "Answers",
    "Audio",
    "Finding",
    "Intervention",
    "Medium",
    "Prompt",
    "Sample",
    "Shift",
    "SteeringProof",
    "UserError",
    "Verdict",
    "Video",
    "VisionLanguageModel",
    "check",
    "generate",
    "hidden_states",
    "judge",
    "load_model",
    "load_shift",
    "make_prompt",
    "measure_shift",
    "read_dataset",
    "save_shift",
    "split",
    "steer",
]

# The module of each name.
_MODULES = {
    "Answer": "cmrm.decoding.requests",
    "Answers": "cmrm.decoding.requests",
    "Audio": "cmrm.prompts.media",
    "Finding": "cmrm.doctor.examination",
    "Intervention": "cmrm.steering.intervention",
    "Medium": "cmrm.prompts.media",
    "Prompt": "cmrm.prompts.conditions",
    "Sample": "cmrm.prompts.sample",
    "Shift": "cmrm.steering.shift",
    "SteeringProof": "cmrm.steering.proof",
    "UserError": "cmrm.errors",
    "Verdict": "cmrm.judges.judge",
    "Video": "cmrm.prompts.media",
    "VisionLanguageModel": "cmrm.models.vlm",
    "check": "cmrm.api.models",
    "generate": "cmrm.api.answers",
    "hidden_states": "cmrm.api.states",
    "judge": "cmrm.api.answers",
    "load_model": "cmrm.api.models",
    "load_shift": "cmrm.steering.shift",
    "make_prompt": "cmrm.api.prompts",
    "measure_shift": "cmrm.api.states",
    "read_dataset": "cmrm.datasets",
    "save_shift": "cmrm.api.states",
    "split": "cmrm.datasets.splits",
    "steer": "cmrm.api.steer",
}


def __getattr__(name: str) -> Any:
    """Import a name of the API when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(_MODULES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
