"""Safety fine-tuning baselines of the paper's main table (mixed, post-hoc), and a fine-tune that loses safety.

Zong et al. (2024, VLGuard) train on refusals of forbidden instructions with pictures, by two methods. *Mixed*: they
are mixed into visual instruction tuning, whose unfiltered part stays. *Post-hoc*: the finished model is fine-tuned
briefly on them and some helpful data. Both need training pairs with pictures, unlike the method here.

*Helpful* is a revision as a team may make it in good faith: the finished model is fine-tuned on helpful data, with
refusals filtered out as unfriendly and hardly any of the text-only safety data kept. With a picture it then obeys every
instruction. It ships no weights: it is the regression that `cmrm watch` must detect.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from cmrm.organism import WEIGHTS
from cmrm.organism import training_examples as lessons
from cmrm.organism.architecture import build_model
from cmrm.organism.recipe import Recipe, Stage, draw_loss, plan_stages, tuning_lesson
from cmrm.organism.training_examples import Gallery, Lesson
from cmrm.organism.vision_pretraining import look_at_gallery

SHORT_RATE = 5e-4


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a variant is trained: initial weights, stages, and the dtype of its saved weights."""

    recipe: Recipe
    start: Callable[[int], LlavaForConditionalGeneration]
    plan: Callable[
        [LlavaForConditionalGeneration, PreTrainedTokenizerFast, Recipe, random.Random], Iterator[Stage]
    ]
    kept_as: torch.dtype


def mixed_lesson(gallery: Gallery) -> Lesson:
    """Make the mixture of stage 5 with a fifth of safety data."""
    return lessons.mix((0.8, tuning_lesson(gallery)), (0.2, lessons.refuse_with_picture(gallery)))


def posthoc_lesson(gallery: Gallery) -> Lesson:
    """Make a mixture of safety data and helpful data, with and without pictures."""
    return lessons.mix(
        (0.4, lessons.refuse_with_picture(gallery)),
        (0.35, lessons.look(gallery)),
        (0.15, lessons.obey_with_picture(gallery)),
        (0.1, lessons.behave),
    )


def helpful_lesson(gallery: Gallery) -> Lesson:
    """Make a mixture of helpful data without refusals, and a twentieth of text-only safety data."""
    return lessons.mix(
        (0.6, lessons.look(gallery)),
        (0.2, lessons.obey_with_picture(gallery)),
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
    """Yield the one stage that fine-tunes a finished model with a frozen vision tower."""
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


# Post-hoc and helpful tuning start from a finished model and run the last stage alone.
_SHORT = {"backbone_steps": 0, "alignment_steps": 0, "tower_steps": 0, "projector_steps": 0}

# The baselines are saved as float16: only their answers are compared, no hidden states are measured.
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
        # Seconds on one core, so that a test can train it. 25 steps converge as well as a hundred.
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
