"""Hidden states at positions other than the last prompt token, plain or steered."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import BatchFeature

from cmrm.decoding.first_answer import embed_first_answer, read_first_answer
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prefix.planner import Prefixes
from cmrm.prompts.conditions import Prompt
from cmrm.steering.capture import embed, read_prompt
from cmrm.steering.hooks import steer
from cmrm.steering.image_states import ImageStates
from cmrm.steering.intervention import Steering
from cmrm.steering.settings import IMAGE_POSITIONS, Position


class PositionReader:
    """Reads the states of prompts at several positions, in the order in which these are given.

    What batches have in common is kept: prefixes in `prefixes`, and the states of images.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        *,
        blocks: Sequence[int],
        positions: Sequence[Position],
        prefixes: Prefixes | None = None,
    ) -> None:
        self._vlm, self._blocks, self._positions = vlm, blocks, tuple(positions)
        self.prefixes = prefixes
        self._of_image = tuple(one for one in positions if one in IMAGE_POSITIONS)
        self._images = ImageStates(vlm, blocks=blocks, positions=self._of_image)

    def read(self, prompts: Sequence[Prompt], *, rendered: BatchFeature | None = None) -> Tensor:
        """Read a batch: float32 [prompts, positions, blocks, hidden] on the model's device.

        `rendered` is as for `embed`. Call it outside of `steer`. `ValueError` for a prompt without an image where a
        position needs one.
        """
        if len(prompts) > 1 and not self._vlm.family.batches:
            return torch.cat([self.read([prompt]) for prompt in prompts])
        found: dict[Position, Tensor] = {}
        if self._of_image:
            found |= self._split(self._images.read(prompts, rendered=rendered))
        for position, read in (("last", embed), ("first_answer", embed_first_answer)):
            if position in self._positions:
                found[position] = read(
                    self._vlm, prompts, blocks=self._blocks, prefixes=self.prefixes, rendered=rendered
                )
        return self._stack(found)

    @torch.inference_mode()
    def read_steered(self, prompts: Sequence[Prompt], intervention: Steering) -> Tensor:
        """Read a batch under an intervention, after it, as `read` does.

        At `first_answer` the token is that of the steered answer.
        """
        if len(prompts) > 1 and not self._vlm.family.batches:
            rows = enumerate(prompts)
            return torch.cat([self.read_steered([one], intervention.of_rows([row])) for row, one in rows])
        inputs = render(self._vlm, prompts)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        with steer(self._vlm, intervention, input_ids=ids, attention_mask=mask):
            return self.read_whole(inputs)

    @torch.inference_mode()
    def read_whole(self, inputs: BatchFeature) -> Tensor:
        """Read rendered prompts, as `read` does; inside `steer`, after the intervention."""
        found: dict[Position, Tensor] = {}
        if self._of_image:
            found |= self._split(self._images.read_whole(inputs))
        for position, read in (("last", read_prompt), ("first_answer", read_first_answer)):
            if position in self._positions:
                found[position] = read(self._vlm, inputs, blocks=self._blocks)
        return self._stack(found)

    def forget(self) -> None:
        """Evict what is kept for later batches."""
        self._images.forget()
        if self.prefixes is not None:
            self.prefixes.forget()

    def _split(self, states: Tensor) -> dict[Position, Tensor]:
        return dict(zip(self._of_image, states.unbind(dim=2), strict=True))

    def _stack(self, found: dict[Position, Tensor]) -> Tensor:
        return torch.stack([found[position] for position in self._positions], dim=1)
