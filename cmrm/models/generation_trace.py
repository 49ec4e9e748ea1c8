"""Trace what a decoder does with a prompt while the model generates a token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from cmrm.errors import UserError
from cmrm.models.hook_handles import hooked
from cmrm.models.modules import list_module_lists
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt


class UnderivableError(Exception):
    """No row could be derived: `check` is the check that fails, and the message says what was found."""

    def __init__(self, check: str, found: str) -> None:
        super().__init__(found)
        self.check = check


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a module of a list: the hidden states that it got and gave; None where there were none."""

    path: str
    number: int
    given: Tensor | None
    made: Tensor | None


@dataclass(kw_only=True)
class Trace:
    """What a pass did: calls of modules in lists of the decoder, in order, and the position ids that it was given."""

    ids: list[int]
    calls: list[Call] = field(default_factory=list)
    positions: Tensor | None = None


def trace_generation(outline: VisionLanguageModel, prompt: Prompt) -> Trace:
    """Generate one token, and record what the decoder did with the prompt: this is how answers are made."""
    kind = "a text" if prompt.image is None else "an image"
    try:
        inputs = render(outline, [prompt])
    except UserError:
        raise
    except Exception as error:
        raise UnderivableError(
            "answering", f"its processor cannot prepare {kind}: {_first_line(error)}"
        ) from error
    trace = Trace(ids=inputs["input_ids"][0].tolist())

    def note(path: str, number: int) -> Any:
        def act(_module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
            given = next((one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)), None)
            made = next(iter(output), None) if isinstance(output, tuple) else output
            trace.calls.append(
                Call(path=path, number=number, given=given, made=made if isinstance(made, Tensor) else None)
            )

        return act

    def note_positions(_module: nn.Module, _args: Any, kwargs: Mapping[str, Any]) -> None:
        trace.positions = kwargs.get("position_ids")

    watching = (
        child.register_forward_hook(note(path, number), with_kwargs=True)
        for path, module in list_module_lists(outline.decoder).items()
        for number, child in enumerate(module)
    )
    heard = (one.register_forward_pre_hook(note_positions, with_kwargs=True) for one in (outline.decoder,))
    try:
        with hooked(watching), hooked(heard):
            outline.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    except Exception as error:
        raise UnderivableError(
            "answering", f"the model cannot answer {kind}: {_first_line(error)}"
        ) from error
    return trace


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
