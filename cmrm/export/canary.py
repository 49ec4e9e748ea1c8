"""The canary of an export: prompts whose greedy answers tell a steered server from an unsteered one, as JSON.

It stands beside the export as `canary.json`, and needs neither the model nor cmrm to be read: each prompt has the
messages of a chat completions request, ready to be sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cmrm.errors import UserError
from cmrm.export.json_file import read_json
from cmrm.untrusted.printable import show, show_value

FILE = "canary.json"
KIND = "cmrm-canary"
# Raised when a field changes its meaning or goes.
SCHEMA = 1
# Images are small and few.
MOST_BYTES = 16 * 2**20
MOST_PROMPTS = 256
MOST_TOKENS = 4096

Reading = Literal["steered", "unsteered", "neither"]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A greedy answer: its token ids, its text, and `start`, the text up to the token at which the two texts part."""

    tokens: tuple[int, ...]
    text: str
    start: str


@dataclass(frozen=True, kw_only=True)
class CanaryPrompt:
    """One prompt: chat messages with the image as a data URL, and the greedy answers to it.

    `token_ids` are those of the rendered prompt; the two texts part at token `differ_at`, counted from 0. `margin` is
    the smallest distance between the first and the second choice up to there, in both answers, relative to the
    largest logit.
    """

    messages: tuple[Mapping[str, Any], ...]
    token_ids: tuple[int, ...]
    max_tokens: int
    differ_at: int
    margin: float
    steered: Expected
    unsteered: Expected


@dataclass(frozen=True, kw_only=True)
class Canary:
    """A canary: what was exported, and its prompts.

    `shift` is the digest of the shift, and `acts_at` the tokens at which the export steers. `repetition_penalty` is
    what a request has to ask for where the model's generation config has another one, which servers take for a default;
    None where it has none.
    """

    format: str
    model: str
    revision: str
    dtype: str
    shift: str
    alpha: float
    blocks: tuple[int, ...]
    acts_at: str
    prompts: tuple[CanaryPrompt, ...]
    repetition_penalty: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {"kind": KIND, "schema": SCHEMA, **asdict(self)}


def read_text_start(text: str, prompt: CanaryPrompt) -> Reading:
    """Tell from an answer's text whether a prompt was answered by the steered model; white space around it is ignored.

    Servers strip what an answer begins with, or do not. Where its token ids are known, `read_served` compares these.
    """
    begins = text.strip()
    if begins.startswith(prompt.steered.start.strip()):
        return "steered"
    return "unsteered" if begins.startswith(prompt.unsteered.start.strip()) else "neither"


def judge_readings(readings: Sequence[Reading]) -> Reading:
    """The verdict on a server: what all prompts agree in, else `neither`."""
    found = set(readings)
    return found.pop() if len(found) == 1 else "neither"


def write_canary(canary: Canary, folder: Path) -> Path:
    """Write `canary.json` into a folder."""
    path = folder / FILE
    path.write_text(json.dumps(canary.to_json(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return path


def read_canary(path: Path) -> Canary:
    """Read a canary from its file; raises `UserError` if it is none, is damaged, or is of a later release."""
    where = show(path)
    content = read_json(path, most=MOST_BYTES, wanted=FILE)
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise UserError(f"{where}: is no canary; give the canary.json of an export.")
    if content.get("schema") != SCHEMA:
        raise UserError(
            f"{where}: has schema {show_value(content.get('schema'))} and this release reads {SCHEMA}; use the release "
            "that wrote it."
        )
    try:
        return _restore(content)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise UserError(
            f"{where}: a field is missing or has another shape ({show(error)}); export again."
        ) from None


def _restore(content: Mapping[str, Any]) -> Canary:
    asked = content["prompts"]
    if not 1 <= len(asked) <= MOST_PROMPTS:
        raise ValueError(f"{len(asked)} prompts")
    return Canary(
        **{name: str(content[name]) for name in ("format", "model", "revision", "dtype", "shift", "acts_at")},
        alpha=float(content["alpha"]),
        blocks=tuple(map(int, content["blocks"])),
        prompts=tuple(map(_restore_prompt, asked)),
        repetition_penalty=None if (penalty := content.get("repetition_penalty")) is None else float(penalty),
    )


def _restore_prompt(one: Mapping[str, Any]) -> CanaryPrompt:
    prompt = CanaryPrompt(
        messages=tuple(dict(message) for message in one["messages"]),
        token_ids=tuple(map(int, one["token_ids"])),
        max_tokens=int(one["max_tokens"]),
        differ_at=int(one["differ_at"]),
        margin=float(one["margin"]),
        **{
            name: Expected(
                tokens=tuple(map(int, one[name]["tokens"])),
                text=str(one[name]["text"]),
                start=str(one[name]["start"]),
            )
            for name in ("steered", "unsteered")
        },
    )
    if not 1 <= prompt.max_tokens <= MOST_TOKENS:
        raise ValueError(f"max_tokens {prompt.max_tokens}")
    if not are_told_apart(prompt.steered.start, prompt.unsteered.start):
        raise ValueError("a prompt whose two answers begin alike")
    until = prompt.differ_at + 1
    if prompt.differ_at < 0 or prompt.steered.tokens[:until] == prompt.unsteered.tokens[:until]:
        raise ValueError(f"a prompt whose two answers have the same tokens up to {prompt.differ_at}")
    return prompt


def are_told_apart(one: str, other: str) -> bool:
    """Whether two beginnings of answers can be told apart: neither is empty or what the other begins with."""
    one, other = one.strip(), other.strip()
    return bool(one and other) and not one.startswith(other) and not other.startswith(one)
