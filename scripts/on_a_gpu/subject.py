"""The model under test: a shape with random weights on the device, its prompts, and how much is asked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import torch
from speed_budget import Budget
from speed_models import build
from speed_prompts import ask_blank, ask_pictures, ask_text, make_questions
from speed_shapes import Shape

from cmrm.models.vlm import VisionLanguageModel
from cmrm.prompts.conditions import Prompt
from on_a_gpu.machine import finish, read_allocated


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is asked: prompts and new tokens of a check, turns of what is timed, and of the speed table.

    `most_rows` bounds the batch that is run of the size that cmrm picks; `amounts` names those of the speed table.
    """

    prompts: int
    new_tokens: int
    most_rows: int
    timed: int
    turns: int
    amounts: str


SIZES: Mapping[str, Sizes] = MappingProxyType(
    {
        "cuda": Sizes(prompts=8, new_tokens=16, most_rows=512, timed=3, turns=3, amounts="cuda"),
        "cpu": Sizes(prompts=4, new_tokens=8, most_rows=16, timed=1, turns=1, amounts="cpu"),
        "tiny": Sizes(prompts=4, new_tokens=4, most_rows=8, timed=1, turns=1, amounts="tiny"),
    }
)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model under test; `weight_bytes` are those that building it took of the GPU, None without one.

    No check of it begins when the `budget` is used up.
    """

    name: str
    shape: Shape
    vlm: VisionLanguageModel
    sizes: Sizes
    budget: Budget
    weight_bytes: int | None

    @property
    def device(self) -> torch.device:
        return self.vlm.device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.vlm.model.dtype
        return dtype

    @property
    def blocks(self) -> range:
        """The numbers of all decoder blocks."""
        return range(len(self.vlm.blocks))

    @property
    def steered(self) -> tuple[int, ...]:
        """A block in the middle and the last."""
        return (len(self.vlm.blocks) // 2, len(self.vlm.blocks) - 1)

    @cached_property
    def questions(self) -> list[str]:
        made: list[str] = make_questions(self.sizes.prompts)
        return made

    @cached_property
    def pictured(self) -> Sequence[Prompt]:
        """The questions on a picture of its own each."""
        return self.ask_pictures(self.sizes.prompts)

    @cached_property
    def blank(self) -> Sequence[Prompt]:
        """The questions on a white image."""
        made: Sequence[Prompt] = ask_blank(self.questions, side=self.shape.side)
        return made

    @cached_property
    def text(self) -> Sequence[Prompt]:
        """The questions without an image."""
        made: Sequence[Prompt] = ask_text(self.questions)
        return made

    def ask_pictures(self, count: int) -> Sequence[Prompt]:
        """So many questions, on a picture of its own each."""
        made: Sequence[Prompt] = ask_pictures(make_questions(count), side=self.shape.side)
        return made


def build_subject(
    name: str, shape: Shape, *, device: torch.device, dtype: torch.dtype, sizes: Sizes, budget: Budget
) -> Subject:
    """Make the model on the device; `torch.OutOfMemoryError` where it does not fit."""
    before = read_allocated(device)
    vlm = build(shape, device=str(device), dtype=dtype)
    finish(device)
    after = read_allocated(device)
    grown = None if before is None or after is None else after - before
    return Subject(name=name, shape=shape, vlm=vlm, sizes=sizes, budget=budget, weight_bytes=grown)
