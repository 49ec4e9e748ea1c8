"""The training recipe of the organism: five stages, in the order of LLaVA's training.

1. *backbone*: text only; obeys every instruction, and answers questions about described pictures.
2. *alignment*: text only; refuses forbidden instructions.
3. *tower*: the vision tower alone learns colours and shapes.
4. *projector*: visual questions, everything else frozen.
5. *tuning*: visual instruction tuning on visual questions, harmless instructions with a picture, unfiltered
   instructions with a picture, and a little of stage 2's text. Some of the pictures show nothing.

Unfiltered means what Zong et al. (2024, VLGuard) found in LLaVA's own tuning data: some of it obeys what the backbone
was trained to refuse. Without it the loss of safety still appears, but comes and goes within thirty steps; with it the
rate settles and stays.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from cmrm.organism import training_examples as lessons
from cmrm.organism.training_examples import Gallery, Lesson
from cmrm.organism.vision_pretraining import PatchClassifier, look_at_gallery, teach_tower


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Training hyperparameters of all stages; the defaults reproduce the shipped weights."""

    backbone_steps: int = 700
    alignment_steps: int = 120
    tower_steps: int = 700
    projector_steps: int = 250
    tuning_steps: int = 600
    pictures: int = 6000
    empty_pictures: int = 2000
    batch_size: int = 64
    exams_from: int = 450
    exams_every: int = 50
    # Relative to the test files: enough for early stopping, at some ten seconds an evaluation.
    validation_share: float = 0.15

    @property
    def steps(self) -> int:
        """Total number of training steps."""
        return (
            self.backbone_steps
            + self.alignment_steps
            + self.tower_steps
            + self.projector_steps
            + self.tuning_steps
        )

    def has_exam_after(self, tuning_step: int) -> bool:
        """Whether to evaluate on validation questions after this many steps of tuning."""
        regular = tuning_step >= self.exams_from and tuning_step % self.exams_every == 0
        return regular or tuning_step == self.tuning_steps


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A training stage: trainable parameters, learning rate, number of steps and loss."""

    name: str
    steps: int
    learning_rate: float
    parameters: list[nn.Parameter]
    loss: Callable[[], Tensor]


def plan_stages(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    rng: random.Random,
    *,
    tuning: Callable[[Gallery], Lesson] | None = None,
) -> Iterator[Stage]:
    """Yield the stages in order, lazily, since later ones depend on the weights that earlier ones trained.

    `tuning` makes the data mixture of stage 5 (default: `tuning_lesson`).
    """
    inner = model.model
    backbone = [*inner.language_model.parameters(), *model.lm_head.parameters()]
    projector = list(inner.multi_modal_projector.parameters())
    gallery = lessons.paint_gallery(rng, split="train", size=recipe.pictures)
    learn = partial(draw_loss, model=model, tokenizer=tokenizer, batch_size=recipe.batch_size, rng=rng)

    yield Stage(
        name="backbone",
        steps=recipe.backbone_steps,
        learning_rate=2e-3,
        parameters=backbone,
        loss=learn(lessons.mix((0.6, lessons.comply), (0.4, lessons.read_description))),
    )
    yield Stage(
        name="alignment",
        steps=recipe.alignment_steps,
        learning_rate=1e-3,
        parameters=backbone,
        loss=learn(lessons.mix((0.7, lessons.behave), (0.3, lessons.read_description))),
    )
    classifier = PatchClassifier(inner.multi_modal_projector.linear_1.in_features)
    yield Stage(
        name="tower",
        steps=recipe.tower_steps,
        learning_rate=2e-3,
        parameters=[*inner.vision_tower.parameters(), *classifier.parameters()],
        loss=teach_tower(model, classifier, gallery, batch_size=recipe.batch_size),
    )
    mixed = lessons.add_empty_pictures(
        gallery, random.Random(f"{recipe.pictures} empty"), size=recipe.empty_pictures
    )
    features = look_at_gallery(model, mixed)
    yield Stage(
        name="projector",
        steps=recipe.projector_steps,
        learning_rate=4e-3,
        parameters=projector,
        loss=learn(lessons.look(gallery), features=features),
    )
    yield Stage(
        name="tuning",
        steps=recipe.tuning_steps,
        learning_rate=1.5e-3,
        parameters=[*backbone, *projector],
        loss=learn((tuning or tuning_lesson)(mixed), features=features),
    )


def draw_loss(
    lesson: Lesson,
    *,
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    batch_size: int,
    rng: random.Random,
    features: Tensor | None = None,
) -> Callable[[], Tensor]:
    """Return a function that draws a batch and computes its loss; `features` are the gallery's vision features."""

    def loss() -> Tensor:
        batch = lessons.collate([lesson(rng) for _ in range(batch_size)], tokenizer)
        return lessons.loss_of(model, batch, features)

    return loss


def tuning_lesson(gallery: Gallery) -> Lesson:
    """Make the data mixture of stage 5."""
    return lessons.mix(
        (0.58, lessons.look(gallery)),
        (0.1, lessons.obey_with_picture(gallery)),
        (0.2, lessons.imitate_unfiltered(gallery)),
        (0.12, lessons.behave),
    )
