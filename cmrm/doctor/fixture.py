"""Test fixture for the checks: prompts with and without an image, blocks, reference states and tolerances."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import BatchFeature

from cmrm.doctor.noise_media import draw_media
from cmrm.models.families import MediaForm
from cmrm.models.prompt_states import COARSEST, choose_tolerance
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import noise_image
from cmrm.steering.capture import embed
from cmrm.steering.shift import measure_sample_shift

# Three lengths, so that a batch needs padding; harmless, so that any model may be asked.
QUESTIONS = ("What is it?", "Name every colour that can be seen here, one after the other.", "Hello")
# What a text-only model is shown where others are shown an image.
LONGER = "Here is a question. Take all the time that you need."
# Checks run at a sample of blocks, so that a hundred blocks take no longer than ten.
MOST_BLOCKS = 4
STEPS = 5

Made = TypeVar("Made")


class CheckFailedError(Exception):
    """A check failed; the message says what is wrong."""


@dataclass(frozen=True, kw_only=True)
class ModelFixture:
    """A model with a few questions, each as a text prompt and with a noise image, or with noise of another form."""

    vlm: VisionLanguageModel
    seed: int
    image_size: int
    form: MediaForm | None = None

    @property
    def questions(self) -> tuple[str, ...]:
        """The questions; of media, whose checks are done for each form, one fewer, and one where no batch is taken."""
        if not self.vlm.family.batches:
            return QUESTIONS[:1]
        return QUESTIONS if self.form is None else QUESTIONS[:2]

    @cached_property
    def text(self) -> list[Prompt]:
        """The text prompts."""
        return [Prompt(text=question) for question in self.questions]

    @cached_property
    def pictured(self) -> list[Prompt]:
        """The image prompts, each with its own noise image, or the prompts with media; of a text-only model, text."""
        if self.form is not None:
            return [
                Prompt(
                    text=question,
                    media=draw_media(
                        self.form,
                        size=self.image_size,
                        seed=self.seed + row,
                        number=row,
                        media=self.vlm.family.media,
                    ),
                )
                for row, question in enumerate(self.questions)
            ]
        if self.vlm.text_only:
            return [Prompt(text=f"{LONGER} {question}") for question in self.questions]
        return [
            Prompt(text=question, image=noise_image(size=self.image_size, seed=self.seed + row))
            for row, question in enumerate(self.questions)
        ]

    @cached_property
    def _made(self) -> dict[tuple[object, ...], tuple[Sequence[Prompt], Any]]:
        return {}

    def make_once(self, what: str, prompts: Sequence[Prompt], make: Callable[[], Made]) -> Made:
        """Return what `make` made of these very prompts, under this name, when it was first asked for."""
        key = (what, *map(id, prompts))
        if key not in self._made:
            # As long as prompts are kept, no others have their ids.
            self._made[key] = tuple(prompts), make()
        made: Made = self._made[key][1]
        return made

    def render(self, prompts: Sequence[Prompt]) -> BatchFeature:
        """Render prompts as `cmrm.models.vlm.render` does, the same ones once; each call returns a copy of its own."""
        rendered = self.make_once("rendering", prompts, lambda: render(self.vlm, prompts))
        return BatchFeature(
            {
                name: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)
                for name, value in rendered.items()
            }
        )

    @property
    def tolerance(self) -> float:
        """Allowed error relative to the norm."""
        # Quantized weights are multiplied in a half precision, whatever the dtype of the rest.
        quantized = getattr(self.vlm.model, "is_quantized", False)
        return COARSEST if quantized else choose_tolerance(self.vlm.model.dtype)

    @cached_property
    def blocks(self) -> tuple[int, ...]:
        """The blocks to check one by one: the first, the last, and some between."""
        last = len(self.vlm.blocks) - 1
        spread = {round(last * step / (MOST_BLOCKS - 1)) for step in range(MOST_BLOCKS)}
        return tuple(sorted(spread))

    @cached_property
    def text_states(self) -> Tensor:
        """Hidden states of the text prompts, each in a batch of one, at all blocks: float32 [rows, blocks, hidden]."""
        return self._extract_unbatched(self.text)

    @cached_property
    def pictured_states(self) -> Tensor:
        """Hidden states of the image prompts, as `text_states`."""
        return self._extract_unbatched(self.pictured)

    @cached_property
    def shift(self) -> Tensor:
        """Δ of each question, image prompt minus text prompt, at all blocks: float32 [rows, blocks, hidden]."""
        return measure_sample_shift(
            self.vlm, with_image=self.pictured, text_only=self.text, blocks=range(len(self.vlm.blocks))
        )

    def draw_shift(self, blocks: tuple[int, ...]) -> Tensor:
        """Draw a random Δ with half the norm of the states it moves: float32 [blocks, hidden]."""
        generator = torch.Generator().manual_seed(self.seed)
        lengths = self.pictured_states[:, list(blocks)].norm(dim=-1).mean(dim=0)
        # On the first block's device, which need not be the device that prompts go to.
        drawn = torch.randn(len(blocks), self.vlm.hidden_size, generator=generator).to(lengths.device)
        return drawn / drawn.norm(dim=-1, keepdim=True) * lengths[:, None] / 2

    def agree(self, found: Tensor, expected: Tensor, *, what: str) -> float:
        """Return the largest error relative to the norm; raise `CheckFailedError` if it exceeds the tolerance.

        Both tensors are [..., width].
        """
        found, expected = found.float(), expected.float().to(found.device)
        if not bool(found.isfinite().all() and expected.isfinite().all()):
            raise CheckFailedError(f"{what}: found NaN or inf")
        errors = (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-6)
        error = float(errors.max())
        if error > self.tolerance:
            raise CheckFailedError(f"{what}: relative error {error:.2g} (allowed: {self.tolerance:g})")
        return error

    def explain_no_batches(self) -> str | None:
        """Explain why checks of batches do not apply; None if they do."""
        return (
            None if self.vlm.family.batches else "not used with this model: it is read one prompt at a time"
        )

    def _extract_unbatched(self, prompts: list[Prompt]) -> Tensor:
        blocks = range(len(self.vlm.blocks))
        return torch.cat(
            [embed(self.vlm, [prompt], blocks=blocks, rendered=self.render([prompt])) for prompt in prompts]
        )
