"""A task's generation settings in lmms-eval: what greedy decoding honours, and a refusal of everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cmrm.errors import UserError

# lmms-eval's own chat models use 1024 to 4096 where a task names no limit; so many tokens of chatter help no score.
MAX_NEW_TOKENS = 1024

_LIMITS = ("max_new_tokens", "max_gen_toks")
_STOPS = ("until", "stop_sequences")
# They choose among samples, and a greedy answer has one.
_WITHOUT_EFFECT = ("top_p", "top_k", "seed")


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """The longest answer, in tokens, and the strings that end an answer and are no part of it."""

    max_new_tokens: int
    until: tuple[str, ...]

    def cut(self, text: str) -> str:
        """The answer up to the first of the stop strings."""
        places = [place for stop in self.until if (place := text.find(stop)) >= 0]
        return text[: min(places)] if places else text


def read_generation(kwargs: Mapping[str, Any], *, task: str) -> GenerationSettings:
    """Read `generation_kwargs` of a task.

    Raises `UserError` for a setting that greedy decoding cannot honour, so that no score rests on another one.
    """
    for name, value in kwargs.items():
        if name in _LIMITS or name in _STOPS or name in _WITHOUT_EFFECT:
            continue
        honoured = _HONOURED.get(name)
        if honoured is None:
            raise UserError(
                f"task {task}: generation_kwargs.{name} is {value!r}, which cmrm does not know; it honours "
                f"{', '.join([*_LIMITS, *_STOPS, *_HONOURED])}. Take it out in a task file of your own (include:)."
            )
        if not honoured.holds(value):
            raise UserError(
                f"task {task}: generation_kwargs.{name} is {value!r}, and cmrm decodes greedily, with {name} "
                f"{honoured.words}; set it by --gen_kwargs {name}={honoured.example}."
            )
    return GenerationSettings(max_new_tokens=_read_limit(kwargs, task), until=_read_stops(kwargs, task))


@dataclass(frozen=True, kw_only=True)
class _Honoured:
    """The values of a setting under which greedy decoding is what was asked for."""

    holds: Callable[[Any], bool]
    words: str
    example: str


_NO_SAMPLING = _Honoured(holds=lambda value: value in (None, 0), words="0", example="0")
_SINGLE = _Honoured(holds=lambda value: value in (None, 1), words="1", example="1")
_HONOURED: Mapping[str, _Honoured] = {
    "temperature": _NO_SAMPLING,
    "do_sample": _Honoured(holds=lambda value: not value, words="false", example="False"),
    **dict.fromkeys(("num_beams", "n", "best_of", "num_return_sequences", "repetition_penalty"), _SINGLE),
    "skip_special_tokens": _Honoured(holds=lambda value: value in (None, True), words="true", example="True"),
    # LLaVA's name for what the processors of transformers do: they see the image as it is.
    "image_aspect_ratio": _Honoured(
        holds=lambda value: value in (None, "original"), words="original", example="original"
    ),
}


def _read_limit(kwargs: Mapping[str, Any], task: str) -> int:
    given = [kwargs[name] for name in _LIMITS if kwargs.get(name) is not None]
    limit = given[0] if given else MAX_NEW_TOKENS
    if isinstance(limit, float) and limit.is_integer():
        limit = int(limit)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise UserError(
            f"task {task}: generation_kwargs.max_new_tokens is {limit!r}; give a whole number from 1."
        )
    return limit


def _read_stops(kwargs: Mapping[str, Any], task: str) -> tuple[str, ...]:
    stops: list[str] = []
    for name in _STOPS:
        value = kwargs.get(name) or ()
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list | tuple) or not all(isinstance(one, str) for one in listed):
            raise UserError(
                f"task {task}: generation_kwargs.{name} is {value!r}; give a string or a list of strings."
            )
        stops += [one for one in listed if one]
    return tuple(stops)
