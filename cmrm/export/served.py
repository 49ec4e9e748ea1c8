"""An answer to a canary's prompt, by a server or in this process, and how it reads."""

from __future__ import annotations

from dataclasses import dataclass

from cmrm.export.canary import CanaryPrompt, Reading, read_text_start


@dataclass(frozen=True, kw_only=True)
class Served:
    """An answer: its text, its token ids, and those of the prompt, or how many these are; None where nobody says."""

    text: str
    tokens: tuple[int, ...] | None = None
    prompt_ids: tuple[int, ...] | None = None
    prompt_tokens: int | None = None

    def count_prompt(self) -> int | None:
        """Count the prompt's tokens, None if nobody says."""
        return self.prompt_tokens if self.prompt_ids is None else len(self.prompt_ids)


def read_served(served: Served, prompt: CanaryPrompt) -> Reading:
    """Tell from an answer whether a prompt was answered by the steered model.

    By its token ids up to the one at which the two expected answers part, where they are known; else by its text.
    """
    if not is_read_by_ids(served, prompt):
        return read_text_start(served.text, prompt)
    assert served.tokens is not None  # as it is read by them
    until = prompt.differ_at + 1
    begins = served.tokens[:until]
    if begins == prompt.steered.tokens[:until]:
        return "steered"
    return "unsteered" if begins == prompt.unsteered.tokens[:until] else "neither"


def is_read_by_ids(served: Served, prompt: CanaryPrompt) -> bool:
    """Whether an answer's token ids are known as far as the two expected answers go together.

    Some servers leave out the token that ends an answer; where that is the one at which the two part, the text tells.
    """
    return served.tokens is not None and len(served.tokens) > prompt.differ_at
