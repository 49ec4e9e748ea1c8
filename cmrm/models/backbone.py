"""Load a text-only model as the backbone of a vision-language model, asked by that model's prompts or by its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    BatchFeature,
    GenerationConfig,
)

from cmrm.errors import UserError
from cmrm.models.attention import need_attention, refuse_other_dtypes
from cmrm.models.chat_template import Turns, choose_system_form, choose_template
from cmrm.models.devices import (
    DeviceMap,
    choose_device,
    keep_freed_memory,
    need_accelerate,
    own_weights,
    refuse_disk,
)
from cmrm.models.families import Attention, Family
from cmrm.models.family_lookup import get_family
from cmrm.models.folder_examination import examine_folder
from cmrm.models.folder_note import FolderNote
from cmrm.models.forward_arguments import run_without_head
from cmrm.models.loading import CODE_ERRORS, Dtype, explain_failure, place_weights, tell
from cmrm.models.model_classes import Classes, find_classes
from cmrm.models.modules import (
    find_image_token,
    find_medium_tokens,
    list_module_lists,
    list_special_tokens,
)
from cmrm.models.oom import is_out_of_memory
from cmrm.models.quantization import Quantization, compute_in_own_dtype
from cmrm.models.revision import ModelIdentity
from cmrm.models.text_models import FIELD, Template
from cmrm.models.tokenizer_file import name_broken_tokenizer
from cmrm.models.vlm import NO_TOKEN, VisionLanguageModel, keep_token_rules, render
from cmrm.models.weights import LOAD_ERRORS, load_config, load_telling_unread, trust
from cmrm.prompts.conditions import Prompt

# Types whose decoders were tested to take a shared KV cache, positions and 4-D masks; for others `generate` answers.
SHARING = frozenset(
    (
        "cohere",
        "cohere2",
        "gemma",
        "gemma2",
        "gemma3_text",
        "glm4",
        "llama",
        "mistral",
        "phi3",
        "qwen2",
        "qwen3",
        "smollm3",
    )
)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The prompts that a backbone is shown: the processor and its template, and which tokens stand for no text."""

    processor: Any
    template: str
    family: Family
    image_token_id: int
    medium_tokens: frozenset[int]
    rules: GenerationConfig


class TextProcessor:
    """A tokenizer with the interface of a processor: its template is given messages as strings, without images."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.chat_template = tokenizer.chat_template

    def apply_chat_template(
        self,
        conversation: Turns | Sequence[Turns],
        *,
        processor_kwargs: Mapping[str, Any] | None = None,
        tokenize: bool = False,
        **arguments: Any,
    ) -> Any:
        """Apply a template as a processor does; `processor_kwargs` are for the tokenizer."""
        several = bool(conversation) and not isinstance(conversation[0], Mapping)
        flat: Any = (
            [_flatten(one) for one in conversation] if several else _flatten(conversation)  # type: ignore[arg-type]
        )
        padding = dict(processor_kwargs or {})
        return self.tokenizer.apply_chat_template(
            flat,
            tokenize=tokenize,
            **({"padding": padding.pop("padding", False), "tokenizer_kwargs": padding} if tokenize else {}),
            **arguments,
        )


def _flatten(turns: Turns) -> list[dict[str, str]]:
    return [
        {
            "role": turn["role"],
            "content": turn["content"]
            if isinstance(turn["content"], str)
            else "".join(part["text"] for part in turn["content"]),
        }
        for turn in turns
    ]


def load_text_backbone(
    identity: ModelIdentity,
    *,
    prompts: ModelIdentity,
    template: Template,
    dtype: Dtype = "auto",
    device: str = "auto",
    attn_implementation: Attention = "sdpa",
    device_map: DeviceMap | None = None,
    quantization: Quantization | None = None,
    family: Family | None = None,
    kept: Sequence[str] = (),
) -> VisionLanguageModel:
    """Load a text-only model (safetensors only, no remote code) so that it can be asked and read as a VLM is.

    Under `template` "model" it is given the token ids of the text prompts of the vision-language model `prompts`, of
    which only the processor and the stop tokens are loaded; `family` replaces that model's row. Under "own" it is asked
    by its own chat template. Raises `UserError` if it cannot be loaded, or its tokens are not those of the prompts.
    """
    need_attention(attn_implementation)
    if device_map is not None:
        need_accelerate()
    chosen = choose_device(device)
    try:
        classes = Classes(config=AutoConfig, model=AutoModelForCausalLM)
        config = load_config(identity.folder, classes, attention=attn_implementation)
        model, unread = load_telling_unread(
            identity.folder,
            classes,
            config,
            dtype=dtype,
            device=chosen,
            where=f"{FIELD}.id: {identity.id!r}",
            **place_weights(
                config, classes, chosen, device_map=device_map, quantization=quantization, dtype=dtype
            ),
        )
        refuse_disk(model, where=identity.id)
        if device_map is None and quantization is None:
            model = model.to(chosen)
        with name_broken_tokenizer(identity.folder):
            tokenizer = AutoTokenizer.from_pretrained(identity.folder, **trust())
    except UserError:
        raise
    except (*LOAD_ERRORS, MemoryError) as error:
        raise explain_failure(error, identity, attn_implementation) from error
    shown = (
        _show_own(identity, model, tokenizer)
        if template == "own"
        else _show_as(prompts, family or get_family(prompts.model_type, where=prompts.id))
    )
    refuse_other_dtypes(attn_implementation, model)
    if quantization is not None:
        compute_in_own_dtype(model)
    if chosen.type == "cpu":
        keep_freed_memory()
    own_weights(model)
    loaded = _prepare(identity, model.eval(), shown, own=tokenizer, kept=kept)
    _check_prompt(loaded, tokenizer, where=identity.id)
    asked = prompts.folder if template == "model" else None
    return tell(loaded, examine_folder(loaded, identity.folder, unread=unread, prompts=asked), identity)


def _show_own(identity: ModelIdentity, model: Any, tokenizer: Any) -> Shown:
    family = Family(model_type=identity.model_type, blocks="", image_token="")
    processor = TextProcessor(tokenizer)
    return Shown(
        processor=processor,
        template=choose_template(processor, family, where=identity.id),
        family=family,
        image_token_id=NO_TOKEN,
        medium_tokens=frozenset({NO_TOKEN}),
        rules=model.generation_config,
    )


def _show_as(prompts: ModelIdentity, family: Family) -> Shown:
    """Load the processor of the model whose prompts are shown, and its stop tokens, without its weights."""
    trusted = prompts.trust_remote_code
    expected = LOAD_ERRORS + CODE_ERRORS if trusted else LOAD_ERRORS
    try:
        with name_broken_tokenizer(prompts.folder):
            processor = AutoProcessor.from_pretrained(prompts.folder, **trust(trust_remote_code=trusted))
        config = load_config(prompts.folder, find_classes(prompts), attention=None, trust_remote_code=trusted)
    except expected as error:
        raise explain_failure(error, prompts, "sdpa") from error
    try:
        rules = GenerationConfig.from_pretrained(prompts.folder, local_files_only=True)
    except OSError:
        # As transformers does for a model without generation_config.json.
        rules = GenerationConfig.from_model_config(config)
    # A row that was derived from the loaded model is not known here, nor its image token, which no text has.
    token = find_image_token(config, family, where=prompts.id) if family.image_token else NO_TOKEN
    return Shown(
        processor=processor,
        template=choose_template(processor, family, where=prompts.id),
        family=family,
        image_token_id=token,
        medium_tokens=find_medium_tokens(config, token),
        rules=rules,
    )


def _prepare(
    identity: ModelIdentity, model: Any, shown: Shown, *, own: Any, kept: Sequence[str]
) -> VisionLanguageModel:
    decoder = model.get_decoder()
    path = _find_path(model, decoder, where=identity.id)
    tokenizer = shown.processor.tokenizer
    tokenizer.padding_side = "left"
    rows = model.get_input_embeddings().num_embeddings
    padding = _choose_padding(tokenizer, rows, where=identity.id)
    model.generation_config = keep_token_rules(shown.rules)
    special = list_special_tokens(shown.processor, shown.medium_tokens - {NO_TOKEN})
    return VisionLanguageModel(
        model=model,
        processor=shown.processor,
        family=Family(
            model_type=identity.model_type,
            blocks=path,
            image_token=shown.family.image_token,
            shares="all" if identity.model_type in SHARING else "nothing",
            system=shown.family.system,
            template=shown.family.template,
            text_only_form=shown.family.text_only_form,
        ),
        template=shown.template,
        system_form=choose_system_form(shown.processor, shown.template),
        decoder=decoder,
        blocks=tuple(decoder.get_submodule(path)),
        image_only_blocks=frozenset(),
        image_token_id=shown.image_token_id,
        medium_tokens=shown.medium_tokens,
        special_tokens=special,
        kept_tokens={tokenizer.convert_tokens_to_ids(token): token for token in kept},
        notes=(padding,),
        text_only=True,
        unknown_tokens=_list_unknown(tokenizer, own, rows) - special,
    )


def _find_path(model: Any, decoder: nn.Module, *, where: str) -> str:
    """Find the path from a decoder to its list of blocks: the only list of as many modules as its config says."""
    count = model.config.get_text_config().num_hidden_layers
    found = [path for path, module in list_module_lists(decoder).items() if len(module) == count]
    if not found:
        raise UserError(
            f"{FIELD}.id: {where!r} ({type(decoder).__name__}) has no list of {count} decoder blocks, so its states "
            "cannot be read; give a decoder-only language model."
        )
    return min(found, key=lambda path: path.count("."))


def _list_unknown(shown: Any, own: Any, rows: int) -> frozenset[str]:
    """List the tokens of the tokenizer `shown` that are others to the backbone's `own`, or have none of its `rows`."""
    added = shown.get_added_vocab().items()
    return frozenset(
        token for token, number in added if number >= rows or own.convert_ids_to_tokens(number) != token
    )


def _choose_padding(tokenizer: Any, rows: int, *, where: str) -> FolderNote:
    """Choose a padding token that the backbone has an embedding for: a vision-language model adds tokens beyond it.

    Padding is masked, so which token it is changes nothing.
    """
    if tokenizer.pad_token is not None and tokenizer.pad_token_id < rows:
        return FolderNote(about="padding", text=f"{tokenizer.pad_token} ({tokenizer.pad_token_id})")
    for name in ("eos_token", "bos_token", "unk_token"):
        token = getattr(tokenizer, name, None)
        if token is not None and tokenizer.convert_tokens_to_ids(token) < rows:
            tokenizer.pad_token = token
            text = f"the embedding has no row for the pad_token; its {name} {token} ({tokenizer.pad_token_id}) is used"
            return FolderNote(about="padding", text=text)
    raise UserError(
        f"{FIELD}.id: {where!r} has no embedding of any token that batches could be padded with; give the language "
        "model that the vision-language model was made from."
    )


@torch.inference_mode()
def _check_prompt(backbone: VisionLanguageModel, own: Any, *, where: str) -> None:
    """Run one prompt, whose every token must be the same text to the backbone's own tokenizer `own`."""
    inputs: BatchFeature = render(backbone, [Prompt(text="?")])
    ids: list[int] = inputs["input_ids"][0].tolist()
    shown = backbone.processor.tokenizer.convert_ids_to_tokens(ids)
    for number, token, known in zip(ids, shown, own.convert_ids_to_tokens(ids), strict=True):
        if token != known or number >= backbone.model.get_input_embeddings().num_embeddings:
            what = "no token" if known is None else repr(known)
            raise UserError(
                f"{FIELD}.template: the model's prompts hold {token!r}, token {number}, which is {what} to {where!r}. "
                "Set template: own, which asks it by its own chat template."
            )
    try:
        run_without_head(backbone, inputs)
    except Exception as error:
        if is_out_of_memory(error):
            return  # an OOM is handled where the run needs the memory
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{FIELD}.id: {where!r} cannot read a text: {said[:200]}. Check that all of its files are of one model and "
            "one revision."
        ) from error
