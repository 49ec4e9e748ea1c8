"""Prompt builders of a spec's data sets."""

from __future__ import annotations

from cmrm.models.families import IMAGE_SIZE
from cmrm.models.family_lookup import find_family
from cmrm.models.mean_color import read_mean_color
from cmrm.prompts.conditions import make_meaningless
from flows.plan.image_folders import find_own_images
from flows.spec.spec import Spec
from tasks.core.models import ModelUse
from tasks.shards.prompts import PromptBuilder


def make_prompt_builder(spec: Spec, dataset: str, *, store: str, model: ModelUse) -> PromptBuilder:
    """Make the prompt builder of a data set for a model, whose family chooses the images' size if the spec does not."""
    images = spec.images
    red, green, blue = images.color
    return PromptBuilder(
        images=find_own_images(spec, dataset, store=store),
        meaningless=make_meaningless(
            size=choose_image_size(spec, model),
            color=(red, green, blue),
            seed=images.seed,
            mean=read_mean_color(model.identity.folder),
            contrast=images.noise_contrast,
        ),
        system=model.system,
        size_from="family" if images.size is None else "spec",
    )


def choose_image_size(spec: Spec, model: ModelUse) -> int:
    """Choose the side of a model's meaningless images, in pixels: the spec's, else that of the model's family."""
    if spec.images.size is not None:
        return spec.images.size
    identity = model.identity
    family = model.family or find_family(identity.model_type)
    return IMAGE_SIZE if family is None else family.image_size
