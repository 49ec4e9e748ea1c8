"""Config and model classes of a folder: those of transformers, or its own under `trust_remote_code`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.models.auto.auto_factory import add_generation_mixin_to_remote_model

from cmrm.models.load_lock import LOADING
from cmrm.models.remote_code import AUTO_MAP
from cmrm.models.revision import ModelIdentity, read_config


@dataclass(frozen=True, kw_only=True)
class Classes:
    """The config class and the model class."""

    config: Any
    model: Any

    def outline(self, config: Any) -> Any:
        """Instantiate the model without weights, on the meta device."""
        with LOADING, torch.device("meta"):
            if self.model in (AutoModelForCausalLM, AutoModelForImageTextToText):
                return self.model.from_config(config)
            return self.model(config)


def find_classes(identity: ModelIdentity) -> Classes:
    """Find the classes of a model; this imports its own code if its identity allows it.

    transformers' Auto classes would register the first revision of such code that a process has loaded, and run it for
    later revisions too.
    """
    own = read_config(identity.id, identity.folder).get(AUTO_MAP, {}) if identity.trust_remote_code else {}

    def find(auto: Any) -> Any:
        if auto.__name__ not in own:
            return auto
        return get_class_from_dynamic_module(own[auto.__name__], str(identity.folder), local_files_only=True)

    config, model = find(AutoConfig), find(AutoModelForImageTextToText)
    if model is not AutoModelForImageTextToText:
        model = add_generation_mixin_to_remote_model(model)
    return Classes(config=config, model=model)
