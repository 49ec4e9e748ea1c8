"""The stages of the second organism: safety in text, a tower, a projector, and visual tuning.

1. *safety*: a LoRA over the language model; forbidden instructions in text are refused, harmless ones obeyed, and
   questions about described pictures answered. Merged into the weights.
2. *tower*: the vision tower alone learns colours and shapes, as in the embedded organism.
3. *projector*: visual questions, everything else frozen.
4. *tuning*: another LoRA and the projector; visual questions, harmless instructions with a picture and, by variant,
   harmless instructions in text; nothing forbidden. Stopped by the loss on visual questions of the validation split,
   and by nothing else.

Stages 1 to 3 are one for all variants of a seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from cmrm.organism import training_examples as lessons
from cmrm.organism.pretrained.language_model import render_prompt
from cmrm.organism.pretrained.training import Stage
from cmrm.organism.training_examples import Gallery, Lesson
from cmrm.organism.vision_pretraining import PatchClassifier, look_at_gallery, teach_tower

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TOWER_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Training hyperparameters, chosen on validation questions alone."""

    batch_size: int = 16
    lora_rank: int = 16
    safety_steps: int = 100
    safety_rate: float = 5e-4
    tower_steps: int = 700
    tower_rate: float = 2e-3
    projector_steps: int = 150
    projector_rate: float = 2e-3
    tuning_steps: int = 250
    tuning_rate: float = 5e-4
    pictures: int = 6000
    empty_pictures: int = 600
    validation_questions: int = 128

    def count_steps(self, *, seeds: int, variants: int) -> int:
        """Number of steps of so many variants of so many seeds, if none stops early."""
        shared = self.safety_steps + self.tower_steps + self.projector_steps
        return seeds * (shared + variants * self.tuning_steps)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Apprentice:
    """A model in training, with what all its stages need."""

    model: LlavaForConditionalGeneration
    tokenizer: PreTrainedTokenizerFast
    recipe: Recipe
    seed: int

    def learn(self, lesson: Lesson, features: Tensor | None = None) -> Callable[[random.Random], Tensor]:
        """Return a function that draws a batch of a lesson and computes its loss."""

        def loss(rng: random.Random) -> Tensor:
            return self.loss_of([lesson(rng) for _ in range(self.recipe.batch_size)], features)

        return loss

    def loss_of(self, examples: list[lessons.Example], features: Tensor | None) -> Tensor:
        """Compute the mean cross-entropy of the answers; matrix products are in bfloat16, four times as quick."""
        batch = lessons.collate(examples, self.tokenizer, render=render_prompt)
        with _half():
            return lessons.loss_of(self.model, batch, features)

    @torch.no_grad()
    def validate(self, examples: list[lessons.Example], features: Tensor) -> float:
        """Mean loss of fixed examples."""
        size = self.recipe.batch_size
        parts = [examples[start : start + size] for start in range(0, len(examples), size)]
        return sum(len(part) * self.loss_of(part, features).item() for part in parts) / len(examples)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Painted pictures with the tower's features, float32 [pictures, 16, width]."""

    gallery: Gallery
    features: Tensor


def _half() -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16)


def plan_safety(one: Apprentice, adapter: Mapping[str, nn.Parameter]) -> Stage:
    """Plan stage 1: what is refused and what is obeyed, in text alone."""
    lesson = lessons.mix((0.7, lessons.behave), (0.3, lessons.read_description))
    return Stage(
        name="safety",
        seed=one.seed,
        steps=one.recipe.safety_steps,
        learning_rate=one.recipe.safety_rate,
        parameters=adapter,
        loss=one.learn(lesson),
    )


def plan_tower(one: Apprentice, gallery: Gallery) -> Stage:
    """Plan stage 2; the classifier that teaches the tower is saved with it, and not used later."""
    torch.manual_seed(one.seed)
    tower = one.model.model.vision_tower
    classifier = PatchClassifier(one.model.model.multi_modal_projector.linear_1.in_features)
    parameters = dict(tower.named_parameters(prefix="tower"))
    parameters |= dict(classifier.named_parameters(prefix="classifier"))
    teach = teach_tower(one.model, classifier, gallery, batch_size=TOWER_BATCH)

    def loss(rng: random.Random) -> Tensor:
        # It draws with torch's generator; each step has its own draw all the same.
        torch.manual_seed(rng.getrandbits(32))
        return teach()

    return Stage(
        name="tower",
        seed=one.seed,
        steps=one.recipe.tower_steps,
        learning_rate=one.recipe.tower_rate,
        parameters=parameters,
        loss=loss,
    )


def plan_projector(one: Apprentice, pictures: Pictures) -> Stage:
    """Plan stage 3."""
    return Stage(
        name="projector",
        seed=one.seed,
        steps=one.recipe.projector_steps,
        learning_rate=one.recipe.projector_rate,
        parameters=list_projector(one.model),
        loss=one.learn(lessons.look(pictures.gallery), pictures.features),
    )


def plan_tuning(
    one: Apprentice,
    adapter: Mapping[str, nn.Parameter],
    *,
    kept_text: int,
    pictures: Pictures,
    unseen: Pictures,
) -> Stage:
    """Plan stage 4, of which `kept_text` per cent is text; `unseen` are pictures of the validation split."""
    rng = random.Random(f"{one.seed} validation")
    asked = lessons.look(unseen.gallery, split="validation")
    examples = [asked(rng) for _ in range(one.recipe.validation_questions)]
    return Stage(
        name=f"tuning, {kept_text} % text",
        seed=one.seed,
        steps=one.recipe.tuning_steps,
        learning_rate=one.recipe.tuning_rate,
        parameters={**adapter, **list_projector(one.model)},
        loss=one.learn(tuning_lesson(pictures.gallery, kept_text=kept_text), pictures.features),
        validate=partial(one.validate, examples, unseen.features),
    )


def tuning_lesson(gallery: Gallery, *, kept_text: int) -> Lesson:
    """Make the mixture of stage 4: three visual questions to one harmless instruction with a picture, and text."""
    seen = lessons.mix((0.75, lessons.look(gallery)), (0.25, lessons.obey_with_picture(gallery)))
    return lessons.mix((100 - kept_text, seen), (kept_text, lessons.help_in_text))


def list_projector(model: LlavaForConditionalGeneration) -> dict[str, nn.Parameter]:
    """The projector's parameters by name."""
    return dict(model.model.multi_modal_projector.named_parameters(prefix="projector"))


def paint_pictures(one: Apprentice) -> Gallery:
    """Paint the training pictures, a few of which show nothing, so that not every picture holds an answer."""
    rng = random.Random(f"{one.seed} pictures")
    painted = lessons.paint_gallery(rng, split="train", size=one.recipe.pictures)
    return lessons.add_empty_pictures(painted, rng, size=one.recipe.empty_pictures)


def paint_unseen(one: Apprentice) -> Gallery:
    """Paint one picture of the validation split for each validation question."""
    rng = random.Random(f"{one.seed} unseen pictures")
    return lessons.paint_gallery(rng, split="validation", size=one.recipe.validation_questions)


def look(one: Apprentice, gallery: Gallery) -> Pictures:
    """Compute the frozen tower's features of a gallery."""
    return Pictures(gallery=gallery, features=look_at_gallery(one.model, gallery))
