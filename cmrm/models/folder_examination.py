"""Examine a loaded model's folder: which of its files count, and what in them may be other than it was in training."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from cmrm.models.folder_note import FolderNote, Topic
from cmrm.models.template_files import describe_template
from cmrm.models.token_ids import note_stop_tokens, note_text_padding, note_vocabulary
from cmrm.models.tokenizer_check import find_tokenizer_faults
from cmrm.models.vlm import VisionLanguageModel
from cmrm.models.weight_files import describe_weights


def examine_folder(
    vlm: VisionLanguageModel, folder: Path, *, unread: Collection[str], prompts: Path | None = None
) -> Iterator[FolderNote]:
    """Tell what a model was made of, and warn of what may be wrong, in one line each.

    `unread` are weights of the files for which the model has no place. `prompts` is the folder that its tokenizer and
    template are from, if another.
    """
    yield from _tell("weights", *describe_weights(folder))
    if unread:
        yield FolderNote(
            about="weights",
            text=f"it has weights that its config.json has no place for, {min(unread)}"
            f"{f' and {len(unread) - 1} more' if len(unread) > 1 else ''}: without them it may be another model than "
            "the one that was trained. Check that config.json belongs to these weights.",
            warning=True,
        )
    asked = prompts or folder
    yield from _tell("chat template", *describe_template(asked, family=vlm.family.template))
    tokenizer = vlm.processor.tokenizer
    yield from note_vocabulary(vlm.model, tokenizer)
    yield from note_text_padding(tokenizer, asked)
    yield from note_stop_tokens(vlm.model, vlm.processor, vlm.template)
    for fault in find_tokenizer_faults(vlm, asked):
        yield FolderNote(about="tokenizer", text=fault, warning=True)


def _tell(about: Topic, fact: str, fault: str | None) -> Iterator[FolderNote]:
    yield FolderNote(about=about, text=fact)
    if fault is not None:
        yield FolderNote(about=about, text=fault, warning=True)
