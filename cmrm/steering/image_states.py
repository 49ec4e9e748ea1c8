"""Hidden states at the image's tokens: at the last one, and the mean over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import BatchFeature

from cmrm.errors import UserError
from cmrm.models.image_tokens import explain_no_image_tokens, find_image_tokens
from cmrm.models.vlm import VisionLanguageModel, last_prompt_positions, render, send
from cmrm.prefix.cache import cut_prompts
from cmrm.prefix.image_prompts import ImageRendering, continue_rendering, render_with_tokenizer_spy
from cmrm.prefix.planner import PrefixGroup, group_rows, may_pay
from cmrm.prefix.sharing import explain_unshared
from cmrm.prompts.conditions import Prompt
from cmrm.steering.capture import Pick, read_prompt
from cmrm.steering.settings import IMAGE_POSITIONS, Position

# Images whose states are kept for later batches, some megabytes each for a model of 7 B.
MOST_KEPT = 4


@dataclass(frozen=True, kw_only=True)
class _Known:
    """States of an image's tokens, float32 [blocks, positions, hidden], and how a prompt with it was rendered."""

    rendering: ImageRendering
    states: Tensor


class ImageStates:
    """Reads the states of prompts at their image tokens, `positions` being some of `IMAGE_POSITIONS`.

    Where attention is causal, the image's tokens see only what stands before them. So, where prompts of a batch show
    the same pixels, each image is read once and without the question, and is kept for later batches.
    """

    def __init__(
        self, vlm: VisionLanguageModel, *, blocks: Sequence[int], positions: Sequence[Position]
    ) -> None:
        if unknown := [one for one in positions if one not in IMAGE_POSITIONS]:
            raise ValueError(f"{unknown[0]} is no position of an image's tokens")
        if positions and (reason := explain_no_image_tokens(vlm.family)):
            raise UserError(f"positions: there is no {positions[0]}: {reason}.")
        self._vlm, self._blocks, self._positions = vlm, blocks, tuple(positions)
        self._known: dict[tuple[str | None, str | None], _Known] = {}

    @torch.inference_mode()
    def read(self, prompts: Sequence[Prompt], *, rendered: BatchFeature | None = None) -> Tensor:
        """Read a batch: float32 [prompts, blocks, positions, hidden] on the model's device.

        Call it outside of `steer`. `ValueError` for a prompt without an image.
        """
        _refuse_none(prompts)
        if rendered is not None:
            return self.read_whole(rendered)
        shared = self._share(prompts)
        return self.read_whole(render(self._vlm, prompts)) if shared is None else shared

    def read_whole(self, inputs: BatchFeature) -> Tensor:
        """Read rendered prompts, as `read` does; inside `steer`, after the intervention."""
        pick = make_pick(find_image_tokens(self._vlm, inputs), self._positions)
        return read_prompt(self._vlm, inputs, blocks=self._blocks, pick=pick)

    def forget(self) -> None:
        """Evict what is kept for later batches."""
        self._known.clear()

    def _share(self, prompts: Sequence[Prompt]) -> Tensor | None:
        """Read each image once; None where its states may depend on the question, or that saves nothing."""
        groups = group_rows(prompts)
        if explain_unshared(self._vlm, images=1) is not None:
            return None
        if not may_pay(groups) and not all(group.key in self._known for group in groups):
            return None
        known = {group.key: self._known[group.key] for group in groups if group.key in self._known}
        if missing := [group for group in groups if group.key not in known]:
            read = self._read_alone([prompts[group.rows[0]] for group in missing])
            if read is None:
                return None
            known |= {group.key: one for group, one in zip(missing, read, strict=True)}
        if not all(self._begins_alike(known[group.key], prompts, group) for group in groups):
            return None
        self._keep(known)
        index = {row: number for number, group in enumerate(groups) for row in group.rows}
        states = torch.stack([known[group.key].states for group in groups])
        return states[[index[row] for row in range(len(prompts))]]

    def _read_alone(self, prompts: Sequence[Prompt]) -> list[_Known] | None:
        """Read prompts up to their last image token; None if it is not known how they were rendered."""
        vlm = self._vlm
        inputs, renderings = render_with_tokenizer_spy(vlm, prompts)
        found = [one for one in renderings if one is not None]
        if len(found) < len(prompts):
            return None
        lengths = [len(one.head) for one in found]
        states = self.read_whole(
            send(vlm, cut_prompts(inputs, lengths, pad=vlm.processor.tokenizer.pad_token_id))
        )
        return [_Known(rendering=one, states=own) for one, own in zip(found, states, strict=True)]

    def _begins_alike(self, known: _Known, prompts: Sequence[Prompt], group: PrefixGroup) -> bool:
        """Whether all prompts of a group begin with the tokens of the known one up to its image's last."""
        return (
            continue_rendering(self._vlm, known.rendering, [prompts[row] for row in group.rows]) is not None
        )

    def _keep(self, used: dict[tuple[str | None, str | None], _Known]) -> None:
        # The most recently used are the last.
        self._known = {key: one for key, one in self._known.items() if key not in used} | used
        while len(self._known) > MOST_KEPT:
            del self._known[next(iter(self._known))]


def make_pick(tokens: Tensor, positions: Sequence[Position]) -> Pick:
    """Make the function that picks states at image tokens, bool [rows, tokens]: float32 [rows, positions, hidden].

    The mean is added up in float32. `ValueError` for a row without an image token.
    """
    if not bool(tokens.any(dim=1).all()):
        raise ValueError("a prompt has no image token, so no state can be read there")

    def pick(hidden: Tensor) -> Tensor:
        own = tokens.to(hidden.device)
        return torch.stack([_PICKS[position](hidden, own) for position in positions], dim=1)

    return pick


def _pick_last(hidden: Tensor, tokens: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), last_prompt_positions(tokens)].float()


def _average(hidden: Tensor, tokens: Tensor) -> Tensor:
    # Chosen and not multiplied: a state at padding may be NaN.
    states = torch.where(tokens[..., None], hidden.float(), 0.0)
    return states.sum(dim=1) / tokens.sum(dim=1, keepdim=True)


_PICKS = {"last_image": _pick_last, "mean_image": _average}


def _refuse_none(prompts: Sequence[Prompt]) -> None:
    for number, prompt in enumerate(prompts):
        if not prompt.shown or prompt.control is not None:
            raise ValueError(f"prompt {number} shows no image, so it has no state at an image token")
