"""Which model a job uses and how it is loaded, and the one loaded copy that a process caches."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Hashable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from cmrm.errors import UserError
from cmrm.models.adapters import AdapterIdentity
from cmrm.models.families import Derivation, Family, list_settings
from cmrm.models.gguf_weights import GgufFile, check_gguf_unchanged
from cmrm.models.pinning import Pinned, check_unchanged, place
from cmrm.models.quantization import Quantization
from cmrm.models.revision import ModelIdentity
from cmrm.models.text_models import Template
from cmrm.prompts.reasoning import ReasoningMarks

if TYPE_CHECKING:
    from cmrm.models.vlm import VisionLanguageModel

log = logging.getLogger("cmrm.tasks")

USUAL_ATTENTION = "sdpa"


@dataclass(frozen=True, kw_only=True)
class BackboneUse:
    """What makes a text-only model the backbone reference of a vision-language model.

    `of` names that model, whose prompts are `prompts`; under `template` "own" it is asked by its own chat template.
    `settings` is the digest of that model's files but its weights, which no text prompt depends on.
    """

    of: str
    prompts: ModelIdentity
    template: Template
    settings: str

    def content(self) -> dict[str, Any]:
        """The key content that determines which tokens it is shown."""
        shown = {"settings": self.settings} if self.template == "model" else {}
        return {"template": self.template, **shown}


@dataclass(frozen=True, kw_only=True)
class ModelUse:
    """A resolved model with the loading and prompting options that change its output.

    `device` and `device_map` change states only within float tolerance, so they are in no key.
    """

    identity: ModelIdentity
    label: str | None
    dtype: str
    device: str
    attn_implementation: str
    system: str | None
    # With its version, as `cmrm.models.image_backend.pin_image_backend` returns it.
    image_backend: str
    device_map: str | None = None
    quantization: Quantization | None = None
    backbone_weights: GgufFile | None = None
    adapter: AdapterIdentity | None = None
    family: Family | None = None
    # Of a type that no table lists: its row is derived from the loaded model.
    derivation: Derivation | None = None
    # Of a model that reasons, or whose tokenizer has marks of traces.
    reasoning: ReasoningMarks | None = None
    # Of a text-only model beside a vision-language model, of whose row `family` is then the one that was given.
    backbone: BackboneUse | None = None

    @property
    def name(self) -> str:
        """The model's name in messages and tables: its label, else its folder's name or id; and its revision.

        Keys contain it, so it must not read the disk again: a symlink that changed its target is another model.
        """
        parts = [one for one in (self.identity, self.backbone_weights, self.adapter) if one is not None]
        own = self.label or "+".join(one.own_name for one in parts)
        return f"{own}@{'+'.join(one.short_revision for one in parts)}"

    @property
    def fingerprint(self) -> str:
        """The fingerprint in keys: the same for equal weights, wherever they are stored."""
        return join_fingerprints(
            self.identity.fingerprint,
            adapter=None if self.adapter is None else self.adapter.fingerprint,
            backbone=None if self.backbone_weights is None else self.backbone_weights.revision,
        )

    def describe(self) -> dict[str, Any]:
        """The model for records: its name, the requested id, and the immutable revision that it resolved to.

        Loading options are listed only where they differ from the defaults.
        """
        adapter = self.adapter and {"id": self.adapter.id, "revision": self.adapter.revision}
        backbone = self.backbone_weights
        revisions = [one.revision for one in (self.identity, self.adapter) if one is not None]
        return {
            "name": self.name,
            "label": self.name.rpartition("@")[0],
            "id": self.identity.id,
            "revision": "+".join(revisions),
            "fingerprint": self.fingerprint,
            "dtype": self.dtype,
            # A text-only model is shown none.
            **({"image_backend": self.image_backend} if self.backbone is None else {}),
            **({} if self.attn_implementation == USUAL_ATTENTION else self._attention()),
            **({} if self.system is None else {"system": self.system}),
            **({} if adapter is None else {"adapter": adapter}),
            **(
                {}
                if backbone is None
                else {"backbone_weights": {"gguf": backbone.id, "revision": backbone.revision}}
            ),
            **({} if self.backbone is None else {"of": self.backbone.of}),
            **self._unusual(),
        }

    def content(self) -> dict[str, Any]:
        """The key content that determines states and answers of prompts without an image."""
        return {
            "model": self.fingerprint,
            # Rows contain the name, so another name is another table.
            "name": self.name,
            "dtype": self.dtype,
            **self._attention(),
            "system": self.system,
            **self._unusual(),
        }

    def content_of_answers(self) -> dict[str, Any]:
        """The key content that determines answers and not states: which special tokens they keep."""
        special = () if self.reasoning is None else self.reasoning.special
        return {"kept_tokens": list(special)} if special else {}

    def content_with_images(self) -> dict[str, Any]:
        """The key content that determines states and answers of prompts with an image: the image backend, too."""
        return {**self.content(), "image_backend": self.image_backend}

    def _attention(self) -> dict[str, Any]:
        return {"attn_implementation": self.attn_implementation}

    def _unusual(self) -> dict[str, Any]:
        """Options that are in the key only if they are set, so that existing keys without them stay valid."""
        return {
            **({} if self.quantization is None else {"quantization": self.quantization.content()}),
            **({} if self.family is None else {"family": list_settings(self.family)}),
            **({} if self.derivation is None else {"family": {"derived": asdict(self.derivation)}}),
            **({"trust_remote_code": True} if self.identity.trust_remote_code else {}),
            **({} if self.backbone is None else {"backbone": self.backbone.content()}),
        }


def join_fingerprints(model: str, *, adapter: str | None, backbone: str | None) -> str:
    """The fingerprint of a model with its LoRA adapter and other weights of its backbone, if any."""
    own = model if backbone is None else f"{model}+gguf:{backbone}"
    return own if adapter is None else f"{own}+{adapter}"


AnyModel = TypeVar("AnyModel")

# The model this process loaded last, so that all shards of a run share one load.
_loaded: dict[Hashable, Any] = {}
# The device assigned to this worker process, whichever device of that kind the spec names.
DEVICE_VARIABLE = "CMRM_DEVICE"


def load_once(use: Hashable, load: Callable[[], AnyModel]) -> AnyModel:
    """Load a model, or return this process's cached copy; any other model is freed first."""
    if use not in _loaded:
        # Both at once might be an OOM.
        forget_models()
        _loaded[use] = load()
    loaded: AnyModel = _loaded[use]
    return loaded


def forget_models() -> None:
    """Free the loaded model, so that another one can use its memory."""
    _loaded.clear()


def choose_device(device: str) -> str:
    """Resolve a spec's `device` in a process that may have been assigned a device."""
    own = os.environ.get(DEVICE_VARIABLE, device)
    return own if device in {"auto", own.partition(":")[0]} else device


def load_model_once(use: ModelUse) -> VisionLanguageModel:
    """Load the model, or return this process's cached copy; raises as `load_use` does."""
    return load_once(use, partial(load_use, use))


def load_use(use: ModelUse) -> VisionLanguageModel:
    """Load a model as it is used.

    Raises `ModelChangedError` if the loaded files are not those of the identity, and `UserError` where the row of a
    type that no table lists was planned with another transformers.
    """
    if use.derivation not in (None, Derivation.here()):
        raise UserError(
            f"model.id: {use.identity.id!r} is of a type that no table lists, and was planned with transformers "
            f"{use.derivation.transformers}; this process has {Derivation.here().transformers}. Install the same "
            "version here, or run the command again where this one is installed."
        )
    log.info("loading model %s", use.name)
    identity = place(use.identity)
    adapter = None if use.adapter is None else place(use.adapter)
    prompts = None if use.backbone is None else place(use.backbone.prompts)
    read = [one for one in (identity, adapter, prompts) if one is not None]
    try:
        loaded = _load(use, identity, adapter=adapter, prompts=prompts)
    except UserError:
        # In a folder that is still being written, files may not match each other.
        _check_unchanged(use, read)
        raise
    _check_unchanged(use, read)
    return loaded


def _check_unchanged(use: ModelUse, read: Iterable[Pinned]) -> None:
    for one in read:
        check_unchanged(one)
    if use.backbone_weights is not None:
        check_gguf_unchanged(use.backbone_weights)


def _load(
    use: ModelUse,
    identity: ModelIdentity,
    *,
    adapter: AdapterIdentity | None,
    prompts: ModelIdentity | None,
) -> VisionLanguageModel:
    """Load a model from the places of its files on this machine."""
    # Imports torch and transformers with the first model: a run that reuses everything needs neither.
    from cmrm.doctor.admission import load_admitted
    from cmrm.models.attention import load_by_attention
    from cmrm.models.backbone import load_text_backbone

    options: dict[str, Any] = {
        "dtype": use.dtype,
        "device": choose_device(use.device),
        "device_map": use.device_map,
        "quantization": use.quantization,
        "family": use.family,
        "kept": () if use.reasoning is None else use.reasoning.special,
    }
    if use.backbone is None or prompts is None:
        return load_admitted(
            identity,
            backbone_weights=use.backbone_weights,
            adapter=adapter,
            image_backend=use.image_backend,
            attn_implementation=use.attn_implementation,
            **options,
        )
    if use.derivation is not None:
        # A derived row says nothing of how prompts are made.
        options["family"] = Family(model_type=prompts.model_type, blocks="", image_token="")
    load = partial(load_text_backbone, identity, prompts=prompts, template=use.backbone.template, **options)
    return load_by_attention(use.attn_implementation, lambda one: load(attn_implementation=one))
