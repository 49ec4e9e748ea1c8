"""Whether a model's tokenizer reads texts as the model was trained to, as far as its folder can tell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmrm.models.folder_json import read_settings
from cmrm.models.vlm import VisionLanguageModel, render_on_host
from cmrm.prompts.conditions import Prompt

# The backbones whose published tokenizers begin every text with BOS unless their settings say otherwise.
LLAMA_TOKENIZERS = "Llama"


def find_tokenizer_faults(vlm: VisionLanguageModel, folder: Path) -> Iterator[str]:
    """Name what makes a model's tokens others than those it was trained on, each in one line with the fix."""
    if (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file():
        yield (
            "its folder has tokenizer.model and no tokenizer.json, so transformers makes a tokenizer that can split "
            "texts otherwise than in training: add the tokenizer.json of the published model."
        )
    tokenizer = vlm.processor.tokenizer
    bos = tokenizer.bos_token_id
    if bos is None or not _is_to_begin_with_bos(read_settings(folder / "tokenizer_config.json")):
        return
    ids = render_on_host(vlm, [Prompt(text="?")])["input_ids"][0].tolist()
    if ids[0] != bos:
        yield (
            f"its prompts begin without {tokenizer.bos_token}, which they had in training: where a tokenizer.json is "
            "there, its post_processor alone adds it, whatever tokenizer_config.json says; take the published files."
        )


def _is_to_begin_with_bos(settings: dict[str, Any]) -> bool:
    """Whether a tokenizer's settings ask for BOS, or are those of Llama, which has it by default."""
    usual = str(settings.get("tokenizer_class", "")).startswith(LLAMA_TOKENIZERS)
    return bool(settings.get("add_bos_token", usual))
