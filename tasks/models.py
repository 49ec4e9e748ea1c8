"""Which model a job uses and how, and the one loaded copy of it that a process keeps."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmrm.revision import ModelIdentity

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
        """The model for people and for tables: its label, else its id or its folder's name; and its revision."""
        folder = Path(self.identity.id)
        name = self.label or (folder.resolve().name if folder.is_dir() else self.identity.id)
        return f"{name}@{self.identity.revision.removeprefix('sha256:')[:12]}"

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


# The last model that this process loaded, so that all shards of a run share one load.
_loaded: dict[ModelUse, VisionLanguageModel] = {}


def load_model_once(use: ModelUse) -> VisionLanguageModel:
    """Load the model, or return the copy that this process has loaded before."""
    # torch and transformers are imported with the first model: a run that reuses everything needs neither.
    from cmrm.model import load_model

    if use not in _loaded:
        # Let the model before it go first: both at once might not fit.
        _loaded.clear()
        log.info("loading model %s", use.name)
        _loaded[use] = load_model(
            use.identity,
            dtype=use.dtype,  # type: ignore[arg-type] # the spec has checked the word
            device=use.device,
            attn_implementation=use.attn_implementation,  # type: ignore[arg-type] # as above
        )
    return _loaded[use]
