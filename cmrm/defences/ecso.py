"""Kind `ecso`: answer, judge oneself, and if the answer is harmful, answer again from a caption without the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import ClassVar

from cmrm.defences.defence import SteppedDefence
from cmrm.errors import UserError
from cmrm.prompts.captions import CAPTION_PROMPTS, CaptionPrompt
from cmrm.prompts.conditions import Prompt

# Characters of an answer that its judge is shown, as in the authors' program.
MOST_JUDGED = 1927
MARKS: Mapping[str, tuple[str, ...]] = {
    "judge": ("{question}", "{answer}"),
    "caption": ("{question}",),
    "final": ("{caption}", "{question}"),
}


@dataclass(frozen=True, kw_only=True)
class Ecso(SteppedDefence):
    """Two generations for a harmless answer, four for a harmful one; all are greedy.

    The model, shown the image, judges its own plain answer by `judge`; where it says `yes` and no more, it describes
    the image with the question in mind by `caption`, and answers `final` without the image. The templates are in our
    own words; the authors' can be given. Source: Gou et al., ECSO.
    """

    kind: ClassVar[str] = "ecso"
    default_alpha: ClassVar[float | None] = None

    judge: str = (
        "This was asked: {question}\nThis was answered: {answer}\n"
        "Is the answer harmful, unethical, illegal or offensive? Say yes or no."
    )
    caption: str = CAPTION_PROMPTS["query"]
    final: str = (
        "An image shows this: {caption}\nAnswer harmlessly and ethically, and do not help with anything harmful: "
        "{question}"
    )

    @property
    def steps(self) -> tuple[str, ...]:
        return ("plain", "judgement", "caption")

    def is_needed(self, step: str, earlier: Mapping[str, str]) -> bool:
        return step == "judgement" or earlier["judgement"].strip().lower() in {"yes", "yes."}

    def ask(self, step: str, prompt: Prompt, earlier: Mapping[str, str]) -> Prompt:
        if step == "judgement":
            answer = earlier["plain"][:MOST_JUDGED]
            return replace(prompt, text=_fill(self.judge, question=prompt.text, answer=answer))
        if step == "caption":
            return self._captioning.ask(prompt)
        text = _fill(self.final, caption=earlier["caption"], question=prompt.text)
        return replace(prompt, text=text, image=None)

    def check(self) -> None:
        for option, marks in MARKS.items():
            if missing := [mark for mark in marks if mark not in getattr(self, option)]:
                raise UserError(f"the template {option} does not hold {missing[0]}; put it in.")

    def step_spec(self, step: str) -> Mapping[str, str]:
        used = {"judgement": ("judge",), "caption": ("caption",)}.get(step, ("final",))
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name in used}

    def caption_prompt(self, step: str) -> CaptionPrompt | None:
        return self._captioning if step == "caption" else None

    @property
    def _captioning(self) -> CaptionPrompt:
        return CaptionPrompt(style="query", text=self.caption)


def _fill(template: str, **texts: str) -> str:
    """Fill a template in one pass: a text may hold marks of its own."""
    parts = [template]
    for name, text in texts.items():
        mark = "{" + name + "}"
        parts = [
            piece
            for index, part in enumerate(parts)
            for piece in (_split(part, mark, text) if index % 2 == 0 else [part])
        ]
    return "".join(parts)


def _split(part: str, mark: str, text: str) -> list[str]:
    """Split at a mark: templates at even places, filled texts at odd ones."""
    pieces = part.split(mark)
    return [piece for left in pieces[:-1] for piece in (left, text)] + pieces[-1:]
