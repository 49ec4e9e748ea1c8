"""Chat templates in a model's folder: every place that transformers reads, and which of them a processor takes.

Nothing here imports torch or transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cmrm.models.folder_json import read_settings

DEFAULT = "default"
# Named templates beside the default one; a file named after it stands for the default, where nothing else does.
NAMED = "additional_chat_templates"
TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"


def name_templates(value: Any) -> dict[str, str]:
    """Read the value of a `chat_template`, one template or named ones in either form: by name, empty if neither."""
    if isinstance(value, str):
        return {DEFAULT: value}
    if isinstance(value, list):
        value = {one.get("name"): one.get("template") for one in value if isinstance(one, Mapping)}
    if not isinstance(value, Mapping):
        return {}
    return {name: one for name, one in value.items() if isinstance(name, str) and isinstance(one, str)}


def list_processor_templates(folder: Path) -> Iterator[tuple[str, str]]:
    """List the default templates that a processor could take, with their places; transformers takes the first."""
    for name in ("processor_config.json", "chat_template.json"):
        found = name_templates(read_settings(folder / name).get("chat_template"))
        if DEFAULT in found:
            yield name, found[DEFAULT]
    for name in (TEMPLATE_FILE, f"{NAMED}/{DEFAULT}.jinja"):
        try:
            yield name, (folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue  # transformers reports a file that it cannot read


def find_tokenizer_template(folder: Path) -> str | None:
    """Find the default template of tokenizer_config.json, which a tokenizer has if no file holds another."""
    return name_templates(read_settings(folder / TOKENIZER_CONFIG).get("chat_template")).get(DEFAULT)


def find_template(folder: Path, *, family: str | None) -> tuple[str, str] | None:
    """Find the template of a model's prompts with its place: the processor's, the family's, the tokenizer's."""
    if (own := next(list_processor_templates(folder), None)) is not None:
        return own
    if family is not None:
        return "cmrm's own for this model type", family
    tokenizer = find_tokenizer_template(folder)
    return None if tokenizer is None else (TOKENIZER_CONFIG, tokenizer)


def describe_template(folder: Path, *, family: str | None) -> tuple[str, str | None]:
    """Name the place of a loaded model's template, and the places that hold another one."""
    used = find_template(folder, family=family)
    if used is None:
        return "set by its processor", None
    place, template = used
    tokenizer = find_tokenizer_template(folder)
    there = [
        *list_processor_templates(folder),
        *([] if tokenizer is None else [(TOKENIZER_CONFIG, tokenizer)]),
    ]
    others = [name for name, one in there if one.strip() != template.strip()]
    if not others:
        return place, None
    return place, (
        f"prompts are made with the chat template of {place}, and {' and '.join(others)} "
        f"{'has' if len(others) == 1 else 'have'} another. Servers and tokenizers may take that one: keep one of them."
    )
