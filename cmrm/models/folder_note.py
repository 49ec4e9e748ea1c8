"""What a loaded model's folder has to tell: facts about its files, and what may be wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Topic = Literal[
    "adapter", "backbone weights", "chat template", "padding", "stop tokens", "tokenizer", "weights"
]


@dataclass(frozen=True, kw_only=True)
class FolderNote:
    """One line about a model's files; a `warning` names what may be wrong, and how to mend it."""

    about: Topic
    text: str
    warning: bool = False
