"""Which model a job uses and how, and the one loaded copy of it that a process keeps."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from cmrm.revision import ModelIdentity, check_unchanged, place_model

if TYPE_CHECKING:
    from cmrm.model import VisionLanguageModel

log = logging.getLogger("cmrm.tasks")


@dataclass(frozen=True, kw_only=True)
class ModelUse:
    """A resolved model with the ways of loading and prompting it that change what it says.

    `device` is not among them: it moves states by float tolerance only, so no key holds it.
    """

    identity: ModelIdentity
    label: str | None
    dtype: str
    device: str
    attn_implementation: str
    system: str | None

    @property
    def name(self) -> str:
        """The model for people and for tables."""
        return self.identity.call(self.label)

    def describe(self) -> dict[str, str]:
        """The model for records: what it is called, what was asked for, and the immutable revision that it came to."""
        return {
            "name": self.name,
            "label": self.name.rpartition("@")[0],
            "id": self.identity.id,
            "revision": self.identity.revision,
            "fingerprint": self.identity.fingerprint,
            "dtype": self.dtype,
        }

    def content(self) -> dict[str, Any]:
        """What of it determines states and answers."""
        return {
            "model": self.identity.fingerprint,
            # The rows carry the name, so another name is another table.
            "name": self.name,
            "dtype": self.dtype,
            "attn_implementation": self.attn_implementation,
            "system": self.system,
        }


AnyModel = TypeVar("AnyModel")

# What this process loaded last, so that all shards of a run share one load.
_loaded: dict[Hashable, Any] = {}
# The device of a process that has one for itself: its own, whichever of that kind a spec says.
DEVICE_VARIABLE = "CMRM_DEVICE"


def load_once(use: Hashable, load: Callable[[], AnyModel]) -> AnyModel:
    """Load a model, or return the copy that this process has loaded before; any other is let go of first."""
    if use not in _loaded:
        # Both at once might not fit.
        forget_models()
        _loaded[use] = load()
    loaded: AnyModel = _loaded[use]
    return loaded


def forget_models() -> None:
    """Let go of what is loaded: another model wants the memory."""
    _loaded.clear()


def choose_device(device: str) -> str:
    """The device for a spec's `device`, in a process that may have been given one for itself."""
    own = os.environ.get(DEVICE_VARIABLE, device)
    return own if device in {"auto", own.partition(":")[0]} else device


def load_model_once(use: ModelUse) -> VisionLanguageModel:
    """Load the model, or return the copy that this process has loaded before.

    Raises `ModelChangedError` if what was loaded is not what the identity names.
    """
    # torch and transformers are imported with the first model: a run that reuses everything needs neither.
    from cmrm.loading import load_model

    def load() -> VisionLanguageModel:
        log.info("loading model %s", use.name)
        identity = place_model(use.identity)
        loaded = load_model(
            identity,
            dtype=use.dtype,  # type: ignore[arg-type] # the spec has checked the word
            device=choose_device(use.device),
            attn_implementation=use.attn_implementation,  # type: ignore[arg-type] # as above
        )
        check_unchanged(identity)
        return loaded

    return load_once(use, load)
