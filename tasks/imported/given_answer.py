"""One answer as a file of another system gives it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenAnswer:
    """One answer, or why there is none.

    `place` says where it stands in its file, for messages. `dataset` is None where the id alone says it. `fault` is
    why `text` cannot be used, '' where it can. Numbers of tokens are None where the file does not give them.
    """

    place: str
    sample_id: str
    dataset: str | None
    condition: str
    text: str
    fault: str = ""
    tokens: int | None = None
    prompt_tokens: int | None = None
    finish_reason: str | None = None
