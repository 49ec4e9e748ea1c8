"""Prefill the parts of one decode request: what their arms have in common is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import BatchFeature

from cmrm.decoding.requests import DecodeRequest
from cmrm.decoding.scheduler import RequestPart
from cmrm.models.image_tokens import is_medium
from cmrm.models.vlm import VisionLanguageModel, find_special_token, render, send
from cmrm.prefix.block_skipping import can_skip_blocks, keep_outputs, skip_blocks
from cmrm.prefix.cache import PrefilledBatch, PromptBatch, prefill
from cmrm.prefix.image_features import ImageFeatures
from cmrm.prefix.image_prompts import (
    ImageRendering,
    continue_rendering,
    count_common,
    render_with_tokenizer_spy,
)
from cmrm.prefix.planner import Prefixes, group_rows, lay_out, lay_out_rests, may_pay
from cmrm.prompts.conditions import shows_the_same
from cmrm.steering.hooks import steer
from cmrm.steering.intervention import Stack, list_parts
from cmrm.steering.settings import WHOLE_PROMPT


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trunk:
    """The plain prompts of a request, prefilled whole, of which its parts need some blocks or tokens.

    `outputs` are those of blocks after which arms change states, by block, [rows, tokens, hidden].
    """

    inputs: BatchFeature
    renderings: Sequence[ImageRendering | None]
    prefilled: PrefilledBatch
    outputs: dict[int, Tensor]


class RequestPrefill:
    """Prefills the parts of one decode request, each when it has slots. What it keeps is freed with it.

    The plain prompts are prefilled whole once, if several parts can use that: arms that keep the prompt; arms that
    change states of the whole prompt, which are continued from the first block that they change; and arms with prompts
    of their own, which are continued after the image and whatever else they begin with. Image features are computed
    once for equal pixels. All other parts, such as those of prompts that share an image with each other, are
    prefilled by themselves.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        prefixes: Prefixes | None,
        *,
        request: DecodeRequest,
        parts: Sequence[RequestPart],
    ) -> None:
        self._vlm, self._prefixes, self._request = vlm, prefixes, request
        self._features = ImageFeatures(vlm)
        self._rows = list(range(len(request.prompts)))
        self._inputs: BatchFeature | None = None
        self._renderings: Sequence[ImageRendering | None] = ()
        self._trunk: _Trunk | None = None
        self._forked = self._list_forked(parts)
        plain, continued = self._list_sharing(parts)
        sharing = [*plain, *continued, *self._forked]
        # A trunk is run through all blocks only if a part needs their keys and values.
        self._through = len(vlm.blocks) if plain or continued else max(self._forked.values(), default=-1) + 1
        worth = len(sharing) > 1 and (len(continued) > 0 or len(self._forked) > 0)
        self._sharing = frozenset(sharing if worth else ())

    @torch.inference_mode()
    def prefill(self, part: RequestPart) -> PrefilledBatch:
        """Prefill the prompts of a part up to their last token; notes in its proofs which states were steered."""
        with self._features.remembered():
            if part in self._sharing:
                made = self._share(part)
                if made is not None:
                    return made
            return self._prefill_apart(part)

    def _list_forked(self, parts: Sequence[RequestPart]) -> dict[RequestPart, int]:
        """The parts that change other states of the plain prompts, each with the first block that it changes."""
        if not can_skip_blocks(self._vlm):
            return {}
        return {
            part: min(_list_changed(part))
            for part in parts
            if part.throughout is not None and not part.asks_otherwise and self._is_whole(part)
        }

    def _list_sharing(self, parts: Sequence[RequestPart]) -> tuple[list[RequestPart], list[RequestPart]]:
        """The parts that keep the prompt, and those with prompts of their own that may begin as the plain ones do."""
        request = self._request
        if request.rendered is None and self._prefixes is not None and may_pay(group_rows(request.prompts)):
            # Their prompts share prefixes with each other, which saves more.
            return [], []
        unchanged = [part for part in parts if part.throughout is None]
        plain = [part for part in unchanged if not part.asks_otherwise]
        if self._prefixes is None or not all(prompt.shown for prompt in request.prompts):
            return plain, []
        return plain, [part for part in unchanged if part.asks_otherwise and self._shows_the_same(part)]

    def _shows_the_same(self, part: RequestPart) -> bool:
        """Whether the prompts of a part show the images of the plain ones: a defence may change them, too."""
        plain = [self._request.prompts[row.number] for row in part.rows]
        return all(shows_the_same(own, one) for own, one in zip(part.prompts, plain, strict=True))

    def _is_whole(self, part: RequestPart) -> bool:
        return [row.number for row in part.rows] == self._rows

    def _render(self) -> BatchFeature:
        """The plain prompts on the device, rendered once for all parts that need them whole."""
        if self._inputs is None:
            request = self._request
            if request.rendered is not None:
                self._inputs, self._renderings = send(self._vlm, request.rendered), request.renderings
            elif self._prefixes is None:
                self._inputs = render(self._vlm, request.prompts)
            else:
                inputs, self._renderings = render_with_tokenizer_spy(self._vlm, request.prompts)
                self._inputs = send(self._vlm, inputs)
        return self._inputs

    def _grow(self) -> _Trunk:
        if self._trunk is None:
            inputs = self._render()
            outputs = sorted(set(self._forked.values()))
            unused = dict.fromkeys(range(self._through, len(self._vlm.blocks)))
            with skip_blocks(self._vlm, unused), keep_outputs(self._vlm, outputs) as kept:
                prefilled = prefill(self._vlm, PromptBatch(inputs=inputs))
            self._trunk = _Trunk(
                inputs=inputs, renderings=self._renderings, prefilled=prefilled, outputs=dict(kept)
            )
        return self._trunk

    def _share(self, part: RequestPart) -> PrefilledBatch | None:
        """Prefill a part from the trunk; None where that cannot be done."""
        if part in self._forked:
            return self._fork(part, self._grow(), self._forked[part])
        if part.asks_otherwise:
            return self._continue(part, self._grow())
        return self._grow().prefilled.of_rows([row.number for row in part.rows])

    def _fork(self, part: RequestPart, trunk: _Trunk, block: int) -> PrefilledBatch:
        """Prefill again from the first block that an arm changes on: those below see what they saw in the trunk."""
        same: dict[int, Tensor | None] = {**dict.fromkeys(range(block)), block: trunk.outputs[block]}
        with skip_blocks(self._vlm, same):
            own = self._prefill_steered(part, trunk.inputs)
        known = trunk.prefilled
        return PrefilledBatch(
            layers=[*known.layers[: block + 1], *own.layers[block + 1 :]],
            visible=known.visible,
            tokens=known.tokens,
            positions=known.positions,
        )

    def _continue(self, part: RequestPart, trunk: _Trunk) -> PrefilledBatch | None:
        """Prefill what follows the tokens that prompts share with the plain ones, if these include the image."""
        ids = self._tokenize(part, trunk)
        if ids is None:
            return None
        numbers = sorted({row.number for row in part.rows})
        owners = [numbers.index(row.number) for row in part.rows]
        known = [rendering for number in numbers if (rendering := trunk.renderings[number]) is not None]
        lengths = [
            min(
                min(count_common([rendering.ids, own]), len(rendering.ids) - 1, len(own) - 1)
                for own, owner in zip(ids, owners, strict=True)
                if owner == index
            )
            for index, rendering in enumerate(known)
        ]
        if any(length < len(one.head) for length, one in zip(lengths, known, strict=True)):
            return None
        prefix = trunk.prefilled.take_prefix(numbers, lengths, counts=[len(one.ids) for one in known])
        return prefill(self._vlm, lay_out_rests(self._vlm, ids, prefix, owners=owners, lengths=lengths))

    def _tokenize(self, part: RequestPart, trunk: _Trunk) -> list[list[int]] | None:
        """Token ids of a part's prompts from the renderings of the plain ones; None if they cannot be derived."""
        if part.ids is not None:
            return part.ids
        found = []
        for row, prompt in zip(part.rows, part.prompts, strict=True):
            # The processor would read such a text as the placeholder of another image.
            if not trunk.renderings or find_special_token(self._vlm, prompt) is not None:
                return None
            rendering = trunk.renderings[row.number]
            own = rendering and continue_rendering(self._vlm, rendering, [prompt])
            if not own:
                return None
            found += own
        return found

    def _prefill_apart(self, part: RequestPart) -> PrefilledBatch:
        if part.throughout is None:
            return prefill(
                self._vlm, lay_out(self._vlm, part.prompts, self._prefixes, rendered=part.rendered)
            )
        # The full prompt: a prompt that is steered at every position shares no prefix with one that is not.
        if not part.asks_otherwise and self._is_whole(part):
            return self._prefill_steered(part, self._render())
        batch = lay_out(self._vlm, part.prompts, None, rendered=part.rendered)
        return self._prefill_steered(part, batch.inputs)

    def _prefill_steered(self, part: RequestPart, inputs: BatchFeature) -> PrefilledBatch:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        # Of a stack, what acts on the last token alone acts in the first pass of the branches.
        acting = Stack(parts=tuple(one for one in list_parts(part.throughout) if one.scope in WHOLE_PROMPT))
        with steer(self._vlm, acting, input_ids=ids, attention_mask=mask):
            prefilled = prefill(self._vlm, PromptBatch(inputs=inputs))
        for scope in WHOLE_PROMPT:
            inside = mask.bool() if scope == "every_position" else mask.bool() & ~is_medium(self._vlm, ids)
            blocks = _list_changed(part, scope)
            # All tokens of the prompt but the last, which the first pass of the branches steers.
            for row, steered in zip(part.rows, (inside.sum(dim=1) - 1).tolist(), strict=True):
                for branch in row.branches:
                    for block in blocks.intersection(branch.blocks):
                        branch.proof.acted[block] = max(steered, branch.proof.acted.get(block, 0))
        return prefilled


def _list_changed(part: RequestPart, *scopes: str) -> set[int]:
    """The blocks at which an arm changes states of tokens before the last, by interventions of these scopes or any."""
    return {
        block
        for one in list_parts(part.throughout)
        if one.scope in (scopes or WHOLE_PROMPT)
        for block in one.blocks
    }
