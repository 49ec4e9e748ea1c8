"""Render prompts beside the model's work, and find those that the processor or the model's length refuses."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from transformers import BatchFeature

from cmrm.conditions import Prompt
from cmrm.errors import UserError
from cmrm.memory import is_out_of_memory
from cmrm.model import VisionLanguageModel, render_on_host, send
from cmrm.position_limit import count_positions_of, find_position_limit
from cmrm.sharing import Group, explain_unshared, group_rows, may_pay

# Of what a library says, the part that a table has room for.
MOST_SAID = 300


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """Rendered prompts: `kept` are the rows that can be asked, `refused` says why each other one cannot.

    `inputs` are the kept rows as `cmrm.model.render` gives them; None where they may share something, which goes first.
    """

    inputs: BatchFeature | None
    kept: Sequence[int]
    refused: Mapping[int, str]


class Renderer:
    """Renders in another thread than the model's, with a processor of its own, since a tokenizer serves one thread."""

    def __init__(self, vlm: VisionLanguageModel) -> None:
        self.vlm = replace(vlm, processor=copy.deepcopy(vlm.processor))
        self._limit = find_position_limit(vlm)
        # The positions of a prompt on each image that was rendered, by what it shares with others.
        self._proven: dict[tuple[str | None, str | None], int] = {}

    def render(self, prompts: Sequence[Prompt]) -> Rendered:
        """Render prompts; one that the processor, the template or the length of the model refuses costs no other.

        Raises what was raised where each prompt can be rendered by itself, and `UserError` as `cmrm.model.render` does.
        """
        images = sum(prompt.image is not None for prompt in prompts)
        if explain_unshared(self.vlm, images=images) is None and may_pay(groups := group_rows(prompts)):
            refused = self._find_refused(prompts, groups)
            return Rendered(inputs=None, kept=_list_others(prompts, refused), refused=refused)
        refused = {}
        inputs = None
        try:
            inputs = render_on_host(self.vlm, prompts)
        except UserError:
            raise
        except Exception as error:
            refused = {} if is_out_of_memory(error) else self._find_each_refused(prompts)
            if not refused:
                raise
        else:
            refused = self._find_too_long(count_positions_of(self.vlm, inputs))
        kept = _list_others(prompts, refused)
        if refused:
            inputs = render_on_host(self.vlm, [prompts[row] for row in kept]) if kept else None
        if inputs is not None:
            inputs = send(self.vlm, inputs)
        return Rendered(inputs=inputs, kept=kept, refused=refused)

    def _find_refused(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> dict[int, str]:
        """Which rows cannot be asked, where prompts on one image are not rendered one by one."""
        refused: dict[int, str] = {}
        for group in groups:
            for row in group.rows:
                proven = self._proven.get(group.key)
                if proven is not None and not self._may_be_too_long(prompts[row], proven):
                    continue
                found = self._try(prompts[row])
                if isinstance(found, str):
                    refused[row] = found
                else:
                    self._proven.setdefault(group.key, found)
        return refused

    def _find_each_refused(self, prompts: Sequence[Prompt]) -> dict[int, str]:
        found = {row: self._try(prompt) for row, prompt in enumerate(prompts)}
        return {row: reason for row, reason in found.items() if isinstance(reason, str)}

    def _try(self, prompt: Prompt) -> int | str:
        """The positions that a prompt takes by itself, or why it cannot be asked."""
        try:
            inputs = render_on_host(self.vlm, [prompt])
        except UserError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            said = (str(error).strip().splitlines() or ["no reason given"])[0]
            return f"this model's processor refuses it: {type(error).__name__}: {said}"[:MOST_SAID]
        (count,) = count_positions_of(self.vlm, inputs)
        return self._find_too_long([count]).get(0, count)

    def _may_be_too_long(self, prompt: Prompt, proven: int) -> bool:
        """Whether it could be: a text has at most as many tokens as bytes, and a proven prompt had the rest of it."""
        return self._limit is not None and proven + len(prompt.text.encode()) > self._limit

    def _find_too_long(self, counts: Sequence[int]) -> dict[int, str]:
        limit = self._limit
        return {
            row: f"the prompt takes {count} positions and this model has {limit}: shorten it or scale its image down"
            for row, count in enumerate(counts)
            if limit is not None and count > limit
        }


def _list_others(prompts: Sequence[Prompt], refused: Mapping[int, str]) -> list[int]:
    return [row for row in range(len(prompts)) if row not in refused]
