"""What lmms-eval finds under its entry points: the names of cmrm's model, without torch or a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def describe_models() -> ModelManifest:
    """Describe the model `cmrm`, whose class is imported when it is asked for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="cmrm", chat_class_path="flows.lmms.model.SteeredModel")
