"""Plan of captions: the jobs that caption images for one judged model, and what needs none of its own beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cmrm.defences import SteppedDefence
from cmrm.errors import UserError
from flows.plan.prompts import make_prompt_builder
from flows.spec.captions import CaptionsSpec
from flows.spec.interventions import DefenceSpec
from flows.spec.spec import Spec
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.core.models import ModelUse
from tasks.generate.captions import CaptionJob
from tasks.shards.samples import Captioned, Slice, Split, slice_samples, slice_to_caption
from tasks.states.steering import CaptionUse


@dataclass(frozen=True, kw_only=True)
class CaptionPlan:
    """Captions for one judged model, by that model itself or by another (`captioner`)."""

    spec: Spec
    captions: CaptionsSpec
    judged: ModelUse
    captioner: ModelUse
    store: Store

    @property
    def max_new_tokens(self) -> int:
        """The most tokens of a caption."""
        return self.captions.max_new_tokens or self.spec.generation.max_new_tokens

    def jobs(self, samples: Mapping[str, Manifest]) -> list[CaptionJob]:
        """Caption the images of the targets, and of the anchors where a direction is measured on their captions."""
        wanted: list[tuple[Split, Sequence[str], Captioned]] = []
        shared = any(
            self.replaces(one.defence, step)
            for one in self.spec.all_interventions()
            if isinstance(one, DefenceSpec) and "image" in one.conditions
            for step in _list_steps(one)
        )
        if shared or self.spec.shows_captions():
            # A defence asks for the caption of every image; one that a sample came with is not the model's.
            wanted.append(("target", self.spec.judged(), "all" if shared else self.captions.samples))
        if "caption" in self.spec.labelled_conditions():
            anchors = [name for name, share in self.spec.anchors.from_.items() if share > 0]
            wanted.append(("anchor", anchors, self.captions.samples))
        return [
            self._make_job(shard_view, captioned)
            for split, names, captioned in wanted
            for name in names
            for shard_view in slice_to_caption(
                self.store.url, samples[name].key, split, captioned, self.spec.shard_size
            )
        ]

    def replaces(self, defence: object, step: str) -> bool:
        """Whether a step of a defence, on a sample's own image, would give these very captions."""
        return (
            isinstance(defence, SteppedDefence)
            and defence.caption_prompt(step) == self.captions.asked
            and self.max_new_tokens == self.spec.generation.max_new_tokens
            and self.captioner.content_with_images() == self.judged.content_with_images()
        )

    def _make_job(self, shard_view: Slice, captioned: Captioned) -> CaptionJob:
        shard, asked = shard_view.shard, self.captions.asked
        return CaptionJob(
            store=self.store.url,
            label=f"{shard.dataset} {shard.start}–{shard.stop}, {asked.style}",
            rows=shard_view.rows,
            slice=shard_view,
            model=self.captioner,
            showing=make_prompt_builder(self.spec, shard.dataset, store=self.store.url, model=self.captioner),
            steering=CaptionUse(prompt=asked),
            captioned=captioned,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.spec.batch_size,
            fixed_batch=self.spec.fixed_batch,
        )


def refuse_no_images(spec: Spec, samples: Mapping[str, Manifest], store: Store) -> None:
    """Raise `UserError` if captions are asked for and no sample of the judged data sets has an image."""
    if spec.captions is None:
        return
    found = (
        slice_samples(store.url, samples[name].key, "target", "image", spec.shard_size)
        for name in spec.judged()
    )
    if not any(found):
        raise UserError(
            "captions: no sample has an image that could be captioned; give `images` of a data set, or leave captions "
            "out."
        )


def _list_steps(one: DefenceSpec) -> Iterator[str]:
    if isinstance(one.defence, SteppedDefence):
        yield from one.defence.steps
