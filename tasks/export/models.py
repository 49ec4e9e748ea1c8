"""The model of an export: that of the run's record, at its revision, in the form that exports are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cmrm.errors import UserError
from cmrm.models.families import Family
from cmrm.models.model_classes import find_classes
from cmrm.models.pinning import COMMIT
from cmrm.models.revision import ModelIdentity, resolve_model
from cmrm.models.weights import LOAD_ERRORS, load_config
from cmrm.untrusted.printable import first_line, show

# What of a record's model no export carries: its field, and what it is called.
NOT_CARRIED = {
    "adapter": "a LoRA adapter; merge it into the model (peft's merge_and_unload) and measure Δ on that",
    "backbone_weights": "a language model from a GGUF file; save it within its model as safetensors (save_pretrained), "
    "and measure Δ on that",
    "quantization": "quantized weights; measure Δ on the model that they were made from",
    "trust_remote_code": "code of its own",
}


def resolve_recorded(model: Mapping[str, Any], *, folder: str | None = None) -> ModelIdentity:
    """Resolve the model of a run's record, in a given folder or where it was.

    Raises `UserError` if its files are no longer those of the run, and for what no export carries.
    """
    for field, what in NOT_CARRIED.items():
        if model.get(field):
            raise UserError(f"export: the run's model {model['name']} has {what}.")
    revision = str(model["revision"])
    identity = resolve_model(
        folder or str(model["id"]),
        revision=revision if COMMIT.fullmatch(revision) else "main",
        family=_list_row(model),
    )
    if identity.fingerprint != model["fingerprint"]:
        raise UserError(
            f"--model: the files of {identity.id!r} are not those on which the run's Δ was measured ({model['name']}): "
            "they have changed, or are another model's. Run the spec again."
        )
    return identity


def read_row(model: Mapping[str, Any], model_type: str) -> Family | None:
    """Read the row that the spec or a package gave for a run's model; None where a table has it, or it was derived."""
    row = _list_row(model)
    if row is None:
        return None
    fields: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in row.items()}
    return Family(**fields | {"model_type": model_type})


def _list_row(model: Mapping[str, Any]) -> Mapping[str, Any] | None:
    row = model.get("family")
    return None if not row or "derived" in row else row


def refuse_other_model(made_from: Mapping[str, str], identity: ModelIdentity, *, where: str) -> None:
    """Raise `UserError` for a Δ that says on which files it was measured, if a model's are others.

    Two models of one width would take each other's Δ without a word.
    """
    measured_on = made_from.get("fingerprint")
    if measured_on is not None and measured_on != identity.fingerprint:
        raise UserError(
            f"{where} was measured on the files {show(measured_on)} ({show(made_from.get('model', ''))}), and those of "
            f"{identity.id!r} are others. Give the model that it was measured on, or measure it on this one."
        )


def count_blocks(identity: ModelIdentity) -> int:
    """Count a model's decoder blocks by its config; raises `UserError` if it cannot be read."""
    try:
        config = load_config(identity.folder, find_classes(identity), attention=None)
        return int(config.get_text_config().num_hidden_layers)
    except (*LOAD_ERRORS, AttributeError) as error:
        raise UserError(
            f"model.id: the config of {identity.id!r} cannot be read ({first_line(error)})."
        ) from error
