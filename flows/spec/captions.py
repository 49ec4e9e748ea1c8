"""The section `captions` of a spec: by which model a run captions images, of which samples, and what it asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from cmrm.prompts.captions import CAPTION_PROMPTS, QUESTION_MARK, CaptionPrompt, CaptionStyle
from cmrm.untrusted.printable import is_blank
from flows.spec.model_sections import ModelSpec
from flows.spec.section import Section
from tasks.shards.samples import Captioned


class CaptionsSpec(Section):
    """Captions that a run generates, for the samples with an image and no caption (`uncaptioned`), or with an image.

    `by` is a model as in `model`, or its id alone; without it each judged model captions the images that it is shown.
    `max_new_tokens` is that of `generation` where it is not given.
    """

    by: ModelSpec | None = None
    style: CaptionStyle = "plain"
    prompt: str | None = None
    max_new_tokens: int | None = Field(default=None, ge=1)
    samples: Captioned = "uncaptioned"

    @field_validator("by", mode="before")
    @classmethod
    def _take_an_id(cls, given: Any) -> Any:
        if not isinstance(given, str | Mapping | ModelSpec | None):
            raise ValueError(  # noqa: TRY004 - pydantic turns it into a validation error
                "write the id of a model, or a mapping as in model; without it each judged model captions"
            )
        return {"id": given} if isinstance(given, str) else given

    @field_validator("by")
    @classmethod
    def _answer_nothing(cls, by: ModelSpec | None) -> ModelSpec | None:
        if by is not None and by.backbone is not None:
            raise ValueError(
                "a model that captions answers no questions, so it has no backbone; give it to a model of the run"
            )
        return by

    @field_validator("prompt")
    @classmethod
    def _ask_something(cls, prompt: str | None) -> str | None:
        if prompt is not None and is_blank(prompt):
            raise ValueError("write what the model is asked, or leave it out")
        return prompt

    @model_validator(mode="after")
    def _ask_in_the_style(self) -> Self:
        holds_question = QUESTION_MARK in (self.prompt or CAPTION_PROMPTS[self.style])
        if self.style == "query" and not holds_question:
            raise ValueError(
                f"prompt: style query asks with the question in mind, and the prompt does not hold {QUESTION_MARK}; "
                "put it in, or write style: plain"
            )
        if self.style == "plain" and holds_question:
            raise ValueError(
                f"prompt: it holds {QUESTION_MARK}, which style plain does not fill in; write style: query"
            )
        return self

    @property
    def asked(self) -> CaptionPrompt:
        """What the model is asked."""
        return CaptionPrompt(style=self.style, text=self.prompt or CAPTION_PROMPTS[self.style])
