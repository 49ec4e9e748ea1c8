"""Identity of a text-only model, and whose chat template it is asked by as the backbone of a vision-language model.

Nothing here imports torch, so a run with nothing left to do never pays for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cmrm.errors import UserError
from cmrm.models.folder_json import need_whole_settings
from cmrm.models.pinning import find_pin, pin
from cmrm.models.revision import ModelIdentity, need_safetensors, read_config
from cmrm.models.template_files import find_template
from cmrm.models.tokenizer_match import explain_mismatch
from cmrm.models.vision_types import takes_images

FIELD = "model.backbone"

# Whose prompts a backbone is shown: the vision-language model's, token by token, or those of its own chat template.
Template = Literal["model", "own"]
TemplateChoice = Literal["auto", "model", "own"]


def find_text_revision(model_id: str, *, revision: str = "main") -> str:
    """Find the current immutable revision of a text-only model, without download or check; raises as `pin` does."""
    return find_pin(model_id, revision=revision, field=FIELD)


def resolve_text_model(model_id: str, *, revision: str = "main") -> ModelIdentity:
    """Resolve a local folder or a hub id to an immutable identity, checking that it is a text-only model.

    Raises `UserError` for a model that takes images, an adapter, and weights that are no safetensors, else as `pin`
    does.
    """
    found, folder = pin(model_id, revision=revision, field=FIELD)
    config = read_config(model_id, folder, field=FIELD)
    where = f"{FIELD}.id: {model_id!r}"
    if takes_images(config):
        raise UserError(
            f"{where} takes images (model_type {config.get('model_type')!r}), and a backbone is text-only. Give the "
            "language model that the vision-language model was made from, such as lmsys/vicuna-7b-v1.5; what the "
            "language model inside it answers to text are its own rows Query and Caption (backbone: inside)."
        )
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{where} holds an adapter (adapter_config.json). Merge it into the model that it was made for, and give "
            "the folder of the merged model."
        )
    need_whole_settings(folder, where=where)
    need_safetensors(folder, where=where)
    return ModelIdentity(
        id=model_id,
        revision=found,
        model_type=str(config.get("model_type", "")),
        folder=folder,
        section=FIELD,
    )


def choose_prompts(asked: TemplateChoice, text: ModelIdentity, shown: Path) -> Template:
    """Choose whose prompts a backbone is shown; `shown` is the folder of the vision-language model.

    `auto` takes that model's where both tokenizers agree, else the backbone's own. Raises `UserError` where the one
    that is asked for, or that is left, cannot be used.
    """
    reason = None if asked == "own" else explain_mismatch(shown, text.folder)
    if asked != "own" and reason is None:
        return "model"
    if asked == "model":
        raise UserError(
            f"{FIELD}.template: {text.id!r} cannot be shown the tokens of the model's prompts: {reason}. Set template: "
            "own, which asks it by its own chat template, or give the language model that the model was made from."
        )
    if find_template(text.folder, family=None) is None:
        also = "" if reason is None else f" Its tokens are not the model's either: {reason}."
        raise UserError(
            f"{FIELD}.template: {text.id!r} has no chat template to be asked by: it may be a base model.{also} Give "
            "the chat model that the vision-language model was made from, or add chat_template.jinja to its folder."
        )
    return "own"
