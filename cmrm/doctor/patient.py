"""The model under examination: what it is asked, at which blocks, and how far two numbers of it may lie apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cmrm.capture import embed
from cmrm.conditions import Prompt
from cmrm.images import noise_image
from cmrm.model import VisionLanguageModel
from cmrm.shift import measure_sample_shift

# Of three lengths, so that a batch of them is padded; harmless, so that any model may be asked.
QUESTIONS = ("What is it?", "Name every colour that can be seen here, one after the other.", "Hello")
# A spread of blocks, so that a model of a hundred takes no longer than one of ten.
MOST_BLOCKS = 4
STEPS = 5
# How far two ways of computing the same states may lie apart, relative to their length. Rounding at each of some
# dozen blocks adds up; what is wrong (another token, another row, no steering) is off by about 1.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 6e-2}


class CheckFailedError(Exception):
    """What a check found wrong, in words for the one who asked."""


@dataclass(frozen=True, kw_only=True)
class Patient:
    """A model with three questions, without an image and with one of noise."""

    vlm: VisionLanguageModel
    seed: int
    image_size: int

    @cached_property
    def text(self) -> list[Prompt]:
        """The questions, text only."""
        return [Prompt(text=question) for question in QUESTIONS]

    @cached_property
    def pictured(self) -> list[Prompt]:
        """The questions, each with an image of its own."""
        return [
            Prompt(text=question, image=noise_image(size=self.image_size, seed=self.seed + row))
            for row, question in enumerate(QUESTIONS)
        ]

    @property
    def tolerance(self) -> float:
        """How far two results may lie apart, relative to their length."""
        coarsest = max(TOLERANCES.values())
        # Quantized weights are multiplied in a half precision, whatever the dtype of the rest.
        quantized = getattr(self.vlm.model, "is_quantized", False)
        return coarsest if quantized else TOLERANCES.get(self.vlm.model.dtype, coarsest)

    @cached_property
    def blocks(self) -> tuple[int, ...]:
        """The blocks that are tried one by one: the first, the last, and some between."""
        last = len(self.vlm.blocks) - 1
        spread = {round(last * step / (MOST_BLOCKS - 1)) for step in range(MOST_BLOCKS)}
        return tuple(sorted(spread))

    @cached_property
    def text_states(self) -> Tensor:
        """States of the questions as text, each asked alone, at all blocks: float32 [rows, blocks, hidden]."""
        return self._ask_alone(self.text)

    @cached_property
    def pictured_states(self) -> Tensor:
        """States of the questions with their images, as `text_states`."""
        return self._ask_alone(self.pictured)

    @cached_property
    def shift(self) -> Tensor:
        """Δ of each question, measured on its own two arms at all blocks: float32 [rows, blocks, hidden]."""
        return measure_sample_shift(
            self.vlm, with_image=self.pictured, text_only=self.text, blocks=range(len(self.vlm.blocks))
        )

    def draw_shift(self, blocks: tuple[int, ...]) -> Tensor:
        """A random Δ as long as half the states it is to move: float32 [blocks, hidden]."""
        generator = torch.Generator().manual_seed(self.seed)
        lengths = self.pictured_states[:, list(blocks)].norm(dim=-1).mean(dim=0)
        # Where the first block is, which need not be where prompts go.
        drawn = torch.randn(len(blocks), self.vlm.hidden_size, generator=generator).to(lengths.device)
        return drawn / drawn.norm(dim=-1, keepdim=True) * lengths[:, None] / 2

    def agree(self, found: Tensor, expected: Tensor, *, what: str) -> float:
        """The largest error of a row's vector relative to its length; `CheckFailedError` where that is too much.

        Both are [..., width].
        """
        found, expected = found.float(), expected.float().to(found.device)
        if not bool(found.isfinite().all() and expected.isfinite().all()):
            raise CheckFailedError(f"{what}: the numbers are not finite")
        errors = (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-6)
        error = float(errors.max())
        if error > self.tolerance:
            raise CheckFailedError(f"{what}: off by {error:.2g} of its length (allowed: {self.tolerance:g})")
        return error

    def _ask_alone(self, prompts: list[Prompt]) -> Tensor:
        blocks = range(len(self.vlm.blocks))
        return torch.cat([embed(self.vlm, [prompt], blocks=blocks) for prompt in prompts])
