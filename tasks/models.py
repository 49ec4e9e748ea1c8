"""Which model a job uses and how, and the one loaded copy of it that a process keeps."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from cmrm.adapters import AdapterIdentity
from cmrm.errors import UserError
from cmrm.families import Family
from cmrm.pinning import check_unchanged, place
from cmrm.quantization import Quantization
from cmrm.revision import ModelIdentity

if TYPE_CHECKING:
    from cmrm.model import VisionLanguageModel

log = logging.getLogger("cmrm.tasks")

USUAL_ATTENTION = "sdpa"


@dataclass(frozen=True, kw_only=True)
class ModelUse:
    """A resolved model with the ways of loading and prompting it that change what it says.

    `device` and `device_map` are not among them: they move states by float tolerance only, so no key holds them.
    """

    identity: ModelIdentity
    label: str | None
    dtype: str
    device: str
    attn_implementation: str
    system: str | None
    device_map: str | None = None
    quantization: Quantization | None = None
    adapter: AdapterIdentity | None = None
    family: Family | None = None

    @property
    def name(self) -> str:
        """The model for people and for tables: its label, else its folder's name or its id; and its revision.

        It is part of keys, so nothing here may look at the disk again: a link that is turned is another model.
        """
        parts = [one for one in (self.identity, self.adapter) if one is not None]
        own = self.label or "+".join(one.own_name for one in parts)
        return f"{own}@{'+'.join(one.short_revision for one in parts)}"

    @property
    def fingerprint(self) -> str:
        """What keys are made of: equal weights share it, wherever they lie."""
        return join_fingerprints(
            self.identity.fingerprint, None if self.adapter is None else self.adapter.fingerprint
        )

    def describe(self) -> dict[str, Any]:
        """The model for records: what it is called, what was asked for, and the immutable revision that it came to.

        Ways of loading are told where they are not the usual ones.
        """
        adapter = self.adapter and {"id": self.adapter.id, "revision": self.adapter.revision}
        revisions = [one.revision for one in (self.identity, self.adapter) if one is not None]
        return {
            "name": self.name,
            "label": self.name.rpartition("@")[0],
            "id": self.identity.id,
            "revision": "+".join(revisions),
            "fingerprint": self.fingerprint,
            "dtype": self.dtype,
            **({} if self.attn_implementation == USUAL_ATTENTION else self._attention()),
            **({} if self.system is None else {"system": self.system}),
            **({} if adapter is None else {"adapter": adapter}),
            **self._unusual(),
        }

    def content(self) -> dict[str, Any]:
        """What of it determines states and answers."""
        return {
            "model": self.fingerprint,
            # The rows carry the name, so another name is another table.
            "name": self.name,
            "dtype": self.dtype,
            **self._attention(),
            "system": self.system,
            **self._unusual(),
        }

    def _attention(self) -> dict[str, Any]:
        return {"attn_implementation": self.attn_implementation}

    def _unusual(self) -> dict[str, Any]:
        """What is said only where there is something to say, so that keys of what says nothing of it stay."""
        return {
            **({} if self.quantization is None else {"quantization": self.quantization.content()}),
            **({} if self.family is None else {"family": _list_settings(self.family)}),
            **({"trust_remote_code": True} if self.identity.trust_remote_code else {}),
        }


def _list_settings(family: Family) -> dict[str, Any]:
    """What a row says beside its defaults, so that a field more in the table leaves keys as they are."""
    return {one.name: value for one in fields(family) if (value := getattr(family, one.name)) != one.default}


def join_fingerprints(model: str, adapter: str | None) -> str:
    """The fingerprint of a model with an adapter laid over it."""
    return model if adapter is None else f"{model}+{adapter}"


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
        identity = place(use.identity)
        adapter = None if use.adapter is None else place(use.adapter)
        read = [one for one in (identity, adapter) if one is not None]
        try:
            loaded = load_model(
                identity,
                dtype=use.dtype,  # type: ignore[arg-type] # the spec has checked the word
                device=choose_device(use.device),
                attn_implementation=use.attn_implementation,  # type: ignore[arg-type] # as above
                device_map=use.device_map,  # type: ignore[arg-type] # as above
                quantization=use.quantization,
                adapter=adapter,
                family=use.family,
            )
        except UserError:
            # A folder that is being written has files that do not fit together.
            for one in read:
                check_unchanged(one)
            raise
        for one in read:
            check_unchanged(one)
        return loaded

    return load_once(use, load)
