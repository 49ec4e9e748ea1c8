"""From stored samples to prompts: images opened in their folder, and quarantined what the model cannot be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmrm.conditions import Condition, Prompt, show
from cmrm.images import MeaninglessImage, open_image
from tasks.samples import StoredSample

if TYPE_CHECKING:
    from transformers import BatchFeature

    from cmrm.renderer import Renderer


@dataclass(frozen=True, kw_only=True)
class Showing:
    """What it takes to show samples to a model: the folder of their own images, the meaningless ones, a system line."""

    images: Path | None
    meaningless: Mapping[Condition, MeaninglessImage] = field(hash=False)
    system: str | None

    def show(self, stored: StoredSample, condition: Condition) -> Prompt:
        """The prompt of a sample under a condition."""
        return show(
            stored.sample,
            condition,
            open_image=partial(open_image, self.images or Path()),
            meaningless=self.meaningless,
            system=self.system,
        )

    def content(self, condition: Condition) -> dict[str, Any] | None:
        """What of it determines the prompt under a condition, beside the sample itself."""
        image = self.meaningless.get(condition)
        return None if image is None else dict(image.as_dict())


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A batch ready for the model, and the rows of it that cannot be asked, as rows of `quarantine`.

    `rendered` are the prompts as the model takes them, where they have nothing in common that is to be read once.
    """

    samples: Sequence[StoredSample]
    prompts: Sequence[Prompt]
    quarantined: Sequence[dict[str, Any]]
    rendered: BatchFeature | None = None


def prepare_batch(
    renderer: Renderer,
    showing: Showing,
    batch: Sequence[StoredSample],
    condition: Condition,
    *,
    stage: str,
) -> Shown:
    """Make a batch's prompts, and quarantine each sample that cannot be asked, with the reason.

    That is a text that holds one of the model's special tokens, an image that the processor refuses, and a prompt
    longer than the model's positions. Raises `UserError` for an image that ingest has read and that is gone now: the
    disk is at fault and not the row, so nothing is committed and the same command goes on when it is back.
    """
    from cmrm.model import find_special_token

    asked, prompts, reasons = [], [], dict[str, str]()
    for stored in batch:
        prompt = showing.show(stored, condition)
        if token := find_special_token(renderer.vlm, prompt):
            reasons[stored.sample.id] = (
                f"the text holds {token!r}, which this model reads as a control token; remove it from the data"
            )
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
    )


def quarantine_row(stored: StoredSample, *, stage: str, reason: str) -> dict[str, Any]:
    """A row of `quarantine` for a sample that a stage could not take."""
    sample = stored.sample
    return {
        "stage": stage,
        "dataset": sample.dataset,
        "sample_id": sample.id,
        "line": None,
        "reason": reason,
        "raw": sample.question[:500],
    }
