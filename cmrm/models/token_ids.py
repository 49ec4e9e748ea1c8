"""Token ids of a folder's files: stop tokens, the padding token, and whether the embedding has a row for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from cmrm.errors import UserError
from cmrm.models.chat_template import LIST
from cmrm.models.folder_json import read_settings
from cmrm.models.folder_note import FolderNote
from cmrm.models.modules import find_output_layer

GENERATION = "generation_config.json"
ROLES = ("user", "assistant", "user")
ANSWER, NEXT = "qpwoeiruty", "alskdjfhg"


def choose_padding(tokenizer: Any, *, where: str) -> FolderNote:
    """Pad on the left, by the tokenizer's own token or else by EOS; `UserError` if it has neither."""
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is not None:
        return FolderNote(about="padding", text=f"{tokenizer.pad_token} ({tokenizer.pad_token_id})")
    if tokenizer.eos_token is None:
        raise UserError(
            f"model.id: the tokenizer of {where!r} has neither a pad_token nor an eos_token for the padding of a "
            "batch: name one in its tokenizer_config.json."
        )
    tokenizer.pad_token = tokenizer.eos_token
    text = f"the tokenizer has no pad_token; its eos_token {tokenizer.pad_token} ({tokenizer.pad_token_id}) is used"
    return FolderNote(about="padding", text=text)


def check_token_ids(model: Any, processor: Any, *, image_token_id: int, where: str) -> None:
    """Raise `UserError` for a tokenizer with tokens that the embedding has no row for, and for ids that are none.

    A padding token that is the placeholder of an image is one, and a stop token that is a word.
    """
    tokenizer = processor.tokenizer
    if tokenizer.pad_token_id == image_token_id:
        raise UserError(
            f"model.id: the tokenizer of {where!r} pads with {tokenizer.pad_token}, the placeholder of an image: name "
            "another pad_token in its tokenizer_config.json."
        )
    for end in _list_ends(model.generation_config.eos_token_id):
        if not isinstance(end, int) or isinstance(end, bool):
            raise UserError(
                f"model.id: {GENERATION} of {where!r} has eos_token_id {end!r}, which is no token id. Give the id, or "
                "a list of ids."
            )
    rows = int(model.get_input_embeddings().weight.shape[0])
    placeholders = {image_token_id, *_list_placeholders(model.config)}
    beyond = {
        index: token
        for token, index in tokenizer.get_vocab().items()
        if index >= rows and index not in placeholders
    }
    if beyond:
        first = min(beyond)
        raise UserError(
            f"model.id: the tokenizer of {where!r} has tokens up to id {max(beyond)}, such as {beyond[first]!r} "
            f"({first}), and the model's embedding has {rows} rows. Take the tokenizer that the weights were saved "
            "with, or resize the model once (resize_token_embeddings) and save it."
        )


def note_stop_tokens(model: Any, processor: Any, template: str) -> Iterator[FolderNote]:
    """Tell a model's stop tokens, and which tokens end its turns and do not stop it."""
    tokenizer = processor.tokenizer
    own = model.generation_config.eos_token_id
    if own is None:
        own = tokenizer.eos_token_id
    ends = _list_ends(own)
    shown = ", ".join(f"{_name_token(tokenizer, end)} ({end})" for end in ends)
    yield FolderNote(about="stop tokens", text=shown or "none")
    if not ends:
        yield _warn(
            f"no token stops an answer: add eos_token_id to {GENERATION}, or every answer has full length."
        )
        return
    rows = int(find_output_layer(model).out_features)
    if never := [end for end in ends if not 0 <= end < rows]:
        yield _warn(
            f"{GENERATION} has eos_token_id {never[0]}, which the model cannot write: it has {rows} tokens."
        )
    turn = _find_turn_end(processor, template)
    if turn and turn.keys().isdisjoint(ends):
        index, token = next(iter(turn.items()))
        yield _warn(
            f"the chat template ends a turn with {token} ({index}), which stops no answer, so answers may run on: add "
            f"{index} to eos_token_id in {GENERATION}."
        )
    elif not turn and tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ends:
        yield _warn(
            f"the tokenizer's eos_token {tokenizer.eos_token} ({tokenizer.eos_token_id}) stops no answer: if the model "
            f"writes it, add it to eos_token_id in {GENERATION}."
        )


def note_text_padding(tokenizer: Any, folder: Path) -> Iterator[FolderNote]:
    """Tell a padding token that is a word of ordinary texts, as far as the folder's tokenizer.json can tell."""
    content = read_settings(folder / "tokenizer.json")
    added = content.get("added_tokens")
    vocabulary = content.get("model", {}).get("vocab") if isinstance(content.get("model"), Mapping) else None
    pad = tokenizer.pad_token
    special = {one.get("content") for one in added or () if isinstance(one, Mapping)}
    if isinstance(vocabulary, Mapping) and pad in vocabulary and pad not in special:
        yield FolderNote(
            about="padding",
            text=f"pad_token {pad!r} is a token of ordinary texts: answers lose it, and questions with it go to "
            "quarantine. Name another in tokenizer_config.json, such as the eos_token.",
            warning=True,
        )


def note_vocabulary(model: Any, tokenizer: Any) -> Iterator[FolderNote]:
    """Tell rows of the embedding that stand for no token: greedy decoding may choose them, as in plain transformers."""
    rows, tokens = int(find_output_layer(model).out_features), len(tokenizer)
    if rows > tokens:
        yield FolderNote(
            about="tokenizer", text=f"{tokens} tokens; the model has {rows}, of which the last are padding"
        )


def _warn(text: str) -> FolderNote:
    return FolderNote(about="stop tokens", text=text, warning=True)


def _list_ends(ends: Any) -> list[Any]:
    if ends is None:
        return []
    return list(ends) if isinstance(ends, list | tuple) else [ends]


def _name_token(tokenizer: Any, index: int) -> str:
    return str(tokenizer.convert_ids_to_tokens(index)) if 0 <= index < len(tokenizer) else "no token"


def _list_placeholders(config: Any) -> Iterator[int]:
    """List the ids of media placeholders, which models replace before they look a token up."""
    for name, value in config.to_dict().items():
        if name.endswith(("token_id", "token_index")) and isinstance(value, int):
            yield value


def _find_turn_end(processor: Any, template: str) -> dict[int, str]:
    """Find the special tokens between an answer and the next turn, as the chat template writes them, by id."""
    tokenizer = processor.tokenizer
    between = _render_between(processor, template)
    ids = tokenizer(between, add_special_tokens=False)["input_ids"]
    special = {
        index: token.content for index, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    return {index: special[index] for index in ids if index in special}


def _render_between(processor: Any, template: str) -> str:
    """Render what a template writes between an answer and the next question; '' if it takes no such conversation."""
    texts = ["?", ANSWER, NEXT]
    for contents in ([[{"type": "text", "text": one}] for one in texts], texts):
        turns = [{"role": role, "content": one} for role, one in zip(ROLES, contents, strict=True)]
        try:
            text = str(processor.apply_chat_template(turns, chat_template=template, tokenize=False))
        except (TemplateError, TypeError, ValueError, KeyError):
            continue
        _, answered, rest = text.partition(ANSWER)
        between, asked, _ = rest.partition(NEXT)
        if answered and asked and LIST not in text:
            return between
    return ""
