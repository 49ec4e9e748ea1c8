"""JSON files of a model's folder: refused where broken, or read where who loads them reports that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cmrm.errors import UserError

# What transformers reads beside config.json, each a JSON object. A generation_config.json that is broken it drops
# without a word, and with it the model's stop tokens.
SETTINGS = (
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
)


def need_whole_settings(folder: Path, *, where: str) -> None:
    """Raise `UserError` for a file of settings in a folder that is no JSON object; `where` names the model."""
    for path in (folder / name for name in SETTINGS):
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"{where} has a {path.name} that cannot be read ({error}); copy or download it again."
            ) from None
        if not isinstance(content, dict):
            raise UserError(f"{where} has a {path.name} that is no JSON object; copy or download it again.")


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON object; {} for a file that is missing or broken, which is reported elsewhere."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
