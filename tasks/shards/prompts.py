"""Build prompts from stored samples: open their images, and quarantine samples that have no valid prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cmrm.prompts.conditions import CONTROLS, Condition, Prompt, show, shows_the_same
from cmrm.prompts.images import open_image
from cmrm.prompts.meaningless_images import MeaninglessImage
from cmrm.prompts.open_medium import open_medium
from tasks.shards.samples import StoredSample

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import BatchFeature

    from cmrm.models.vlm import VisionLanguageModel
    from cmrm.prefix.image_prompts import ImageRendering
    from cmrm.prefix.renderer import Renderer


CONTROL_TOKEN = "the text holds {token}, which this model reads as a control token; remove it from the data"
UNKNOWN_TOKEN = (
    "the text holds {token}, a token of the model whose prompts this one is shown, which does not know it; remove it "
    "from the data"
)


@dataclass(frozen=True, kw_only=True)
class PromptBuilder:
    """Builds the prompts of samples from the folder of their images, the meaningless images and a system line.

    `size_from` says who chose the size of the meaningless images: the model's family, or the spec.
    """

    images: Path | None
    meaningless: Mapping[Condition, MeaninglessImage] = field(hash=False)
    system: str | None
    size_from: Literal["family", "spec"] = "spec"

    def show(self, stored: StoredSample, condition: Condition) -> Prompt:
        """Build the prompt of a sample under a condition."""
        return show(
            stored.sample,
            condition,
            open_image=partial(open_image, self.images or Path()),
            open_media=partial(open_medium, self.images or Path()),
            meaningless=self.meaningless,
            system=self.system,
        )

    def content(self, condition: Condition) -> dict[str, Any] | None:
        """The key content that determines the prompt under a condition, besides the sample itself."""
        if condition in CONTROLS:
            return {"kind": condition, "size": self.meaningless["blank"].size}
        return self.describe_image(condition)

    def describe_image(self, condition: Condition) -> dict[str, Any] | None:
        """The recipe of the meaningless image that is shown under a condition; None for none, as under a control."""
        image = self.meaningless.get(condition)
        return None if image is None else dict(image.as_dict())

    def show_image(self, stored: StoredSample, condition: Condition) -> Image | None:
        """The image that is shown with a sample under a condition; None for none, as under a control."""
        return None if condition in CONTROLS else self.show(stored, condition).image


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A batch ready for the model, and its samples without a valid prompt as rows of `quarantine`.

    `rendered` is the model's input for the prompts, None where they share a prefix whose prefill runs once, and
    `renderings` say how each was rendered, where that is known.
    """

    samples: Sequence[StoredSample]
    prompts: Sequence[Prompt]
    quarantined: Sequence[dict[str, Any]]
    rendered: BatchFeature | None = None
    renderings: Sequence[ImageRendering | None] = ()


@dataclass(frozen=True, kw_only=True)
class OwnPrompts:
    """What an arm asks in place of the plain prompts, rendered: token ids, or the model's input where it was made.

    `refused` are the reasons of the prompts that the model cannot be given, by row; the ids hold a place for those too.
    """

    prompts: Sequence[Prompt]
    refused: Mapping[int, str]
    ids: Sequence[list[int]] | None = None
    rendered: BatchFeature | None = None


def prepare_batch(
    renderer: Renderer,
    showing: PromptBuilder,
    batch: Sequence[StoredSample],
    condition: Condition,
    *,
    stage: str,
) -> Shown:
    """Build a batch's prompts, and quarantine each sample without a valid prompt, with the reason.

    Invalid are a text with one of the model's special tokens, an image that the processor rejects, and a prompt longer
    than the model's context. Raises `UserError` for an image that ingest read and that is missing now: the disk is at
    fault and not the row, so nothing is committed and the same command resumes once the image is back.
    """
    from cmrm.models.vlm import find_special_token

    asked, prompts, reasons = [], [], dict[str, str]()
    for stored in batch:
        prompt = showing.show(stored, condition)
        if token := find_special_token(renderer.vlm, prompt):
            reasons[stored.sample.id] = _explain_token(renderer.vlm, token)
            continue
        asked.append(stored)
        prompts.append(prompt)
    rendered = renderer.render(prompts) if prompts else None
    if rendered is not None:
        reasons |= {asked[row].sample.id: reason for row, reason in rendered.refused.items()}
    kept = [] if rendered is None else rendered.kept
    return Shown(
        samples=[asked[row] for row in kept],
        prompts=[prompts[row] for row in kept],
        quarantined=[
            quarantine_row(stored, stage=stage, reason=reasons[stored.sample.id])
            for stored in batch
            if stored.sample.id in reasons
        ],
        rendered=None if rendered is None else rendered.inputs,
        renderings=() if rendered is None else rendered.renderings,
    )


def prepare_own(renderer: Renderer, shown: Shown, prompts: Sequence[Prompt]) -> OwnPrompts:
    """Render what an arm asks in place of a batch's prompts, and find what the model cannot be given.

    Where a prompt shows the image of the plain one, its tokens follow from the plain one's rendering.
    """
    same = all(shows_the_same(own, plain) for own, plain in zip(prompts, shown.prompts, strict=True))
    continued = renderer.continue_all(shown.renderings, prompts) if same else None
    if continued is not None:
        return OwnPrompts(prompts=prompts, ids=continued.ids, refused=continued.refused)
    return render_apart(renderer, prompts)


def render_apart(renderer: Renderer, prompts: Sequence[Prompt]) -> OwnPrompts:
    """Render prompts by themselves, and find what the model cannot be given."""
    from cmrm.models.vlm import find_special_token

    found = [find_special_token(renderer.vlm, prompt) for prompt in prompts]
    reasons = {row: _explain_token(renderer.vlm, token) for row, token in enumerate(found) if token}
    asked = [row for row in range(len(prompts)) if row not in reasons]
    rendered = renderer.render([prompts[row] for row in asked]) if asked else None
    if rendered is not None:
        reasons |= {asked[row]: reason for row, reason in rendered.refused.items()}
    # Of use for all rows alone.
    inputs = None if rendered is None or reasons else rendered.inputs
    return OwnPrompts(prompts=prompts, refused=reasons, rendered=inputs)


def quarantine_row(stored: StoredSample, *, stage: str, reason: str) -> dict[str, Any]:
    """Make the row of `quarantine` for a sample that a stage rejected."""
    sample = stored.sample
    return {
        "stage": stage,
        "dataset": sample.dataset,
        "sample_id": sample.id,
        "line": None,
        "reason": reason,
        "raw": sample.question[:500],
    }


def _explain_token(vlm: VisionLanguageModel, token: str) -> str:
    return (UNKNOWN_TOKEN if token in vlm.unknown_tokens else CONTROL_TOKEN).format(token=repr(token))
