"""Render prompts in the background (prefetch), and reject those that the processor or the context length refuses."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from transformers import BatchFeature

from cmrm.errors import UserError
from cmrm.models.media import list_kinds
from cmrm.models.oom import is_out_of_memory
from cmrm.models.position_limit import count_positions_of, find_position_limit
from cmrm.models.rendering import UnshowableError, explain_unshowable
from cmrm.models.vlm import VisionLanguageModel, find_special_token, render_on_host, send
from cmrm.prefix.image_prompts import ImageRendering, continue_rendering, render_with_tokenizer_spy
from cmrm.prefix.planner import PrefixGroup, group_rows, may_pay
from cmrm.prefix.sharing import explain_unshared
from cmrm.prompts.conditions import Prompt

# Characters of a library's error message in a quarantine row.
MOST_SAID = 300


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """Rendered prompts: `kept` are the accepted rows, `refused` holds the reason of each rejected one.

    `inputs` are the kept rows as `cmrm.models.vlm.render` gives them; None if they may share a prefix, which is
    prefilled first. `renderings` say how each of them was rendered, where that is known.
    """

    inputs: BatchFeature | None
    kept: Sequence[int]
    refused: Mapping[int, str]
    renderings: Sequence[ImageRendering | None] = ()


@dataclass(frozen=True, kw_only=True)
class Continued:
    """Prompts with images that were rendered before: their token ids by row, and the reason of each rejected row."""

    ids: Sequence[list[int]]
    refused: Mapping[int, str]


class Renderer:
    """Renders in a background thread with its own copy of the processor, since a tokenizer is not thread-safe.

    `beyond` are the positions after the prompt that the model must have as well.
    """

    def __init__(self, vlm: VisionLanguageModel, *, beyond: int = 0) -> None:
        self.vlm = replace(vlm, processor=copy.deepcopy(vlm.processor))
        self._limit = find_position_limit(vlm)
        self._beyond = beyond
        # Positions of a prompt with each image that was rendered, by `PrefixGroup.key`.
        self._proven: dict[tuple[str | None, str | None], int] = {}

    def render(self, prompts: Sequence[Prompt]) -> Rendered:
        """Render prompts, and reject those that the model's row, processor, template or context length refuses.

        Raises the error of the batch if each prompt can be rendered alone, and `UserError` as
        `cmrm.models.vlm.render` does.
        """
        if untaken := self._find_untaken(prompts):
            return self._render_others(prompts, untaken)
        images = sum(bool(prompt.shown) for prompt in prompts)
        may_share = explain_unshared(self.vlm, images=images) is None and not any(
            one.control for one in prompts
        )
        if may_share and may_pay(groups := group_rows(prompts)):
            refused = self._find_refused(prompts, groups)
            return Rendered(inputs=None, kept=_list_others(prompts, refused), refused=refused)
        if len(prompts) > 1 and not self.vlm.family.batches:
            # Each is rendered again when it is read.
            refused = self._find_each_refused(prompts)
            return Rendered(inputs=None, kept=_list_others(prompts, refused), refused=refused)
        refused = {}
        inputs, renderings = None, list[ImageRendering | None]()
        try:
            inputs, renderings = self._render(prompts)
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
            shown = [prompts[row] for row in kept]
            inputs, renderings = self._render(shown) if kept else (None, [])
        if inputs is not None:
            inputs = send(self.vlm, inputs)
        return Rendered(inputs=inputs, kept=kept, refused=refused, renderings=renderings)

    def _find_untaken(self, prompts: Sequence[Prompt]) -> dict[int, str]:
        """Find the rows whose media the model or its template does not take."""
        found = {order: explain_unshowable(self.vlm, order) for order in set(map(list_kinds, prompts))}
        return {
            row: reason
            for row, prompt in enumerate(prompts)
            if (reason := found[list_kinds(prompt)]) is not None
        }

    def _render_others(self, prompts: Sequence[Prompt], refused: Mapping[int, str]) -> Rendered:
        """Render all but the rejected rows, and number what comes of them as in the whole batch."""
        rows = _list_others(prompts, refused)
        if not rows:
            return Rendered(inputs=None, kept=rows, refused=refused)
        found = self.render([prompts[row] for row in rows])
        return replace(
            found,
            kept=[rows[one] for one in found.kept],
            refused={**refused, **{rows[one]: reason for one, reason in found.refused.items()}},
        )

    def continue_all(
        self, renderings: Sequence[ImageRendering | None], prompts: Sequence[Prompt]
    ) -> Continued | None:
        """Derive prompts from renderings with their images, one each; None if that is not possible for all.

        No image is processed again, and the processor took it before: only a prompt's length can be refused.
        """
        if len(renderings) != len(prompts):
            return None
        ids, counts = [], []
        for rendering, prompt in zip(renderings, prompts, strict=True):
            # The processor would read a special token as the placeholder of another image.
            if rendering is None or not prompt.shown or find_special_token(self.vlm, prompt) is not None:
                return None
            own = continue_rendering(self.vlm, rendering, [prompt])
            if own is None:
                return None
            ids += own
            # Text takes one position a token, whatever the image takes.
            counts.append(rendering.positions + len(own[0]) - len(rendering.ids))
        return Continued(ids=ids, refused=self._find_too_long(counts))

    def _render(self, prompts: Sequence[Prompt]) -> tuple[BatchFeature, list[ImageRendering | None]]:
        if not any(prompt.shown for prompt in prompts):
            return render_on_host(self.vlm, prompts), []
        return render_with_tokenizer_spy(self.vlm, prompts)

    def _find_refused(self, prompts: Sequence[Prompt], groups: Sequence[PrefixGroup]) -> dict[int, str]:
        """Find the rejected rows of prompts that share images, and so are not all rendered here."""
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
        """Render one prompt alone: the positions that it takes, or why it is rejected."""
        try:
            inputs = render_on_host(self.vlm, [prompt])
        except UserError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            if isinstance(error, UnshowableError):
                return str(error)
            said = (str(error).strip().splitlines() or ["no reason given"])[0]
            return f"this model's processor refuses it: {type(error).__name__}: {said}"[:MOST_SAID]
        (count,) = count_positions_of(self.vlm, inputs)
        return self._find_too_long([count]).get(0, count)

    def _may_be_too_long(self, prompt: Prompt, proven: int) -> bool:
        """Whether the prompt could exceed the limit: a text has at most as many tokens as bytes."""
        return self._limit is not None and proven + len(prompt.text.encode()) + self._beyond > self._limit

    def _find_too_long(self, counts: Sequence[int]) -> dict[int, str]:
        limit = self._limit
        more = f", its answer {self._beyond} more," if self._beyond else ""
        return {
            row: f"the prompt takes {count} positions{more} and this model has {limit}: shorten it or scale its image "
            "down"
            for row, count in enumerate(counts)
            if limit is not None and count + self._beyond > limit
        }


def _list_others(prompts: Sequence[Prompt], refused: Mapping[int, str]) -> list[int]:
    return [row for row in range(len(prompts)) if row not in refused]
