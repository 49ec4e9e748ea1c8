"""What a model is asked for a caption of an image: plainly, or with the question in mind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from cmrm.prompts.conditions import Prompt

CaptionStyle = Literal["plain", "query"]
# Where the question stands in a prompt of style `query`.
QUESTION_MARK = "{question}"
# What is asked where nothing else is given.
CAPTION_PROMPTS: Mapping[CaptionStyle, str] = MappingProxyType(
    {
        "plain": "Describe the image in one or two sentences.",
        "query": "Describe what the image shows that matters for this question, in a few sentences: {question}",
    }
)


@dataclass(frozen=True, kw_only=True)
class CaptionPrompt:
    """What a model is asked for a caption; in style `query`, `{question}` in the text stands for the question."""

    style: CaptionStyle
    text: str

    def ask(self, prompt: Prompt) -> Prompt:
        """Make the prompt that asks for a caption of the image of the plain prompt."""
        text = self.text.replace(QUESTION_MARK, prompt.text) if self.style == "query" else self.text
        return replace(prompt, text=text)
