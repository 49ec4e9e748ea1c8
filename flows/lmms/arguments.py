"""The `--model_args` of lmms-eval, read into the arm that answers and how its questions are shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from cmrm.errors import UserError
from cmrm.untrusted.printable import show_value
from flows.answering.arguments import read_wish
from flows.answering.find import ArmWish
from flows.lmms.messages import Layout

Unanswered = Literal["refuse", "empty"]
Word = TypeVar("Word")
OPTION = "model_args."
OWN = ("layout", "unanswered")
# How many questions go together follows from free memory, and changes no answer.
WITHOUT_EFFECT = ("batch_size", "max_batch_size")


@dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """The arm to find, the layout of questions, and what becomes of a question that the model cannot be asked."""

    wish: ArmWish
    layout: Layout
    unanswered: Unanswered


def read_arguments(given: Mapping[str, Any]) -> ModelArguments:
    """Read `model_args` with what the command line adds to them; raises `UserError` for unknown or wrong ones."""
    if not given.get("pretrained"):
        raise UserError(
            f"{OPTION}pretrained: no model is named; give a folder, a hub id, or pretrained=organism."
        )
    apart = ("pretrained", *OWN, *WITHOUT_EFFECT)
    named = {name: _read_structure(value) for name, value in given.items() if name not in apart}
    return ModelArguments(
        wish=read_wish(str(given["pretrained"]), named, option=OPTION, others=OWN),
        layout=_choose("layout", given.get("layout", "as_asked"), get_args(Layout)),
        unanswered=_choose("unanswered", given.get("unanswered", "refuse"), get_args(Unanswered)),
    )


def _choose(name: str, value: Any, words: tuple[Word, ...]) -> Word:
    for word in words:
        if word == value:
            return word
    raise UserError(f"{OPTION}{name} is {show_value(value)}; give {' or '.join(map(str, words))}.")


def _read_structure(value: Any) -> Any:
    """A value without the quotes, and a list from the brackets, that lmms-eval leaves around what holds a comma."""
    text = str(value)
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    if not text.startswith("["):
        return value
    try:
        return json.loads(text)
    except ValueError:
        raise UserError(f"{OPTION}{text} is no list; give one such as blocks=[4,5].") from None
