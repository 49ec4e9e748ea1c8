"""What else the organism can be trained to be: the two training-time references of the paper's main table, and worse.

Zong et al. (2024, VLGuard) train on forbidden instructions beside pictures, refused, in two ways. *Mixed*: they are
mixed into visual instruction tuning, whose unfiltered part stays. *Post-hoc*: the finished model is tuned once more,
briefly, on them and some helpful data. Both need training pairs with pictures, which the method here does without.

*Helpful* is a revision as a team may make it in good faith: the finished model is tuned once more on helpful data,
refusals filtered out of it as unfriendly, with hardly any of the text-only safety data kept. Beside a picture it
then obeys whatever it is told. It ships no weights: it is what a watch for new revisions has to notice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from cmrm.organism import WEIGHTS, lessons
from cmrm.organism.architecture import build_model
from cmrm.organism.lessons import Gallery, Lesson
from cmrm.organism.recipe import Recipe, Stage, draw_loss, plan_stages, tuning_lesson
from cmrm.organism.tower import look_at_gallery

SHORT_RATE = 5e-4


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a variant of the organism is made: from what weights, in which stages, and how its weights are kept."""

    recipe: Recipe
    start: Callable[[int], LlavaForConditionalGeneration]
    plan: Callable[
        [LlavaForConditionalGeneration, PreTrainedTokenizerFast, Recipe, random.Random], Iterator[Stage]
    ]
    kept_as: torch.dtype


def mixed_lesson(gallery: Gallery) -> Lesson:
    """The organism's own stage 5 with the safety lesson as a fifth of it."""
    return lessons.mix((0.8, tuning_lesson(gallery)), (0.2, lessons.refuse_beside_picture(gallery)))


def posthoc_lesson(gallery: Gallery) -> Lesson:
    """The safety lesson, and as much helpful data, beside pictures and without."""
    return lessons.mix(
        (0.4, lessons.refuse_beside_picture(gallery)),
        (0.35, lessons.look(gallery)),
        (0.15, lessons.obey_beside_picture(gallery)),
        (0.1, lessons.behave),
    )


def helpful_lesson(gallery: Gallery) -> Lesson:
    """Helpful data without its refusals, and a twentieth of safety data, in text only."""
    return lessons.mix(
        (0.6, lessons.look(gallery)),
        (0.2, lessons.obey_beside_picture(gallery)),
        (0.15, lessons.obey_unfiltered(gallery)),
        (0.05, lessons.behave),
    )


def plan_short_tuning(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    rng: random.Random,
    *,
    lesson: Callable[[Gallery], Lesson],
) -> Iterator[Stage]:
    """Yield the one stage in which a finished model, whose tower stays as it is, is tuned once more."""
    painted = lessons.paint_gallery(rng, split="train", size=recipe.pictures)
    gallery = lessons.add_empty_pictures(painted, rng, size=recipe.empty_pictures)
    inner = model.model
    yield Stage(
        name="tuning",
        steps=recipe.tuning_steps,
        learning_rate=SHORT_RATE,
        parameters=[
            *inner.language_model.parameters(),
            *model.lm_head.parameters(),
            *inner.multi_modal_projector.parameters(),
        ],
        loss=draw_loss(
            lesson(gallery),
            model=model,
            tokenizer=tokenizer,
            batch_size=recipe.batch_size,
            rng=rng,
            features=look_at_gallery(model, gallery),
        ),
    )


def _build(seed: int) -> LlavaForConditionalGeneration:
    return build_model(seed=seed)


def _load_shipped(seed: int) -> LlavaForConditionalGeneration:
    torch.manual_seed(seed)
    return LlavaForConditionalGeneration.from_pretrained(WEIGHTS, dtype="float32")


# Post-hoc and helpful tuning begin with a finished model, and leave out all stages but the last.
_SHORT = {"backbone_steps": 0, "alignment_steps": 0, "tower_steps": 0, "projector_steps": 0}

# The references' weights are kept in half precision: they are compared with, and nothing is measured inside them.
COURSES: Mapping[str, Course] = MappingProxyType(
    {
        "organism": Course(recipe=Recipe(), start=_build, plan=plan_stages, kept_as=torch.float32),
        "mixed": Course(
            recipe=Recipe(),
            start=_build,
            plan=partial(plan_stages, tuning=mixed_lesson),
            kept_as=torch.float16,
        ),
        "posthoc": Course(
            recipe=Recipe(
                **_SHORT,
                tuning_steps=150,
                pictures=3000,
                empty_pictures=1000,
                exams_from=60,
                exams_every=30,
            ),
            start=_load_shipped,
            plan=partial(plan_short_tuning, lesson=posthoc_lesson),
            kept_as=torch.float16,
        ),
        # Seconds on one core: what a test can raise. Twenty-five steps settle it as a hundred do.
        "helpful": Course(
            recipe=Recipe(
                **_SHORT,
                tuning_steps=30,
                pictures=800,
                empty_pictures=250,
                batch_size=32,
                exams_from=30,
                validation_share=0.05,
            ),
            start=_load_shipped,
            plan=partial(plan_short_tuning, lesson=helpful_lesson),
            kept_as=torch.float32,
        ),
    }
)
