"""One model's part of a plan: states, Δ, interventions, answers and timings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cmrm.conditions import MEANINGLESS, Condition, make_meaningless
from flows.sections import InterventionSpec
from flows.spec import Spec
from storage.manifest import Manifest
from tasks.embed import EmbedJob
from tasks.generate_job import GenerateJob
from tasks.models import ModelUse
from tasks.overhead import OverheadJob, choose_timed
from tasks.prompts import Showing
from tasks.samples import Slice, Split, slice_samples
from tasks.shift import ShiftJob
from tasks.steering import Steering

Samples = Mapping[str, Manifest]
# What a dataset-level Δ is told apart by: its meaningless image and its method.
Shifts = Mapping[tuple[str, str], str]


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """What is to be done with one model."""

    spec: Spec
    model: ModelUse
    store: str

    def embed_jobs(self, samples: Samples) -> list[EmbedJob]:
        """The anchors as text and with each image, for Δ and the figure; then those targets whose states are wanted."""
        wanted = {"query", *(one.image for one in self._dataset_level()), *self.spec.conditions}
        conditions: list[Condition] = [one for one in ("query", "image", *MEANINGLESS) if one in wanted]
        sources = [name for name, share in self.spec.anchors.from_.items() if share > 0]
        anchors = self._slices(samples, sources, split="anchor", conditions=conditions)
        # Steered states are looked at beside those of the same samples as text and with their image.
        compared: list[Condition] = ["query", "image"] if self.spec.steered_states else []
        shown = list(dict.fromkeys([*self.spec.target_states, *compared]))
        targets = self._slices(samples, self.spec.judged(), split="target", conditions=shown)
        return [self._embed(part) for part in (*anchors, *targets)]

    def shift_jobs(self, states: Mapping[Slice, str]) -> list[ShiftJob]:
        """One Δ for each image and method that a dataset-level intervention uses; `states` are embed keys."""
        anchors = {part: key for part, key in states.items() if part.shard.split == "anchor"}
        text = {part.shard: key for part, key in anchors.items() if part.condition == "query"}
        return [
            ShiftJob(
                store=self.store,
                label=f"Δ from {image} images, {method}",
                rows=len(pairs),
                model=self.model,
                image=image,
                method=method,
                pairs=pairs,
            )
            for image, method in dict.fromkeys((one.image, one.method) for one in self._dataset_level())
            for pairs in [
                # Sorted, so that another order of the data sets in the spec is the same Δ.
                tuple(
                    sorted(
                        (key, text[part.shard]) for part, key in anchors.items() if part.condition == image
                    )
                )
            ]
        ]

    def steer(self, shifts: Shifts) -> list[Steering]:
        """Every intervention at every strength."""
        return [
            _steer(one, alpha, shifts) for one in self.spec.all_interventions() for alpha in one.strengths()
        ]

    def embed_steered_jobs(self, samples: Samples, steered: Sequence[Steering]) -> list[EmbedJob]:
        """The targets with their own image while the chosen interventions act."""
        return [
            self._embed(part, one)
            for one in steered
            if one.name in self.spec.steered_names()
            for part in self._targets(samples, "image")
        ]

    def generate_jobs(self, samples: Samples, steered: Sequence[Steering]) -> list[GenerateJob]:
        """The targets under each condition as they are, then with their own image under each intervention.

        A spec with no condition asks for no answers: states and timings alone.
        """
        if not self.spec.conditions:
            return []
        ways: list[tuple[Condition, Steering | None]] = [
            *((condition, None) for condition in self.spec.conditions),
            *(("image", one) for one in steered),
        ]
        parts = {condition: list(self._targets(samples, condition)) for condition in dict(ways)}
        return [
            GenerateJob(
                store=self.store,
                label=_label(part, steering),
                rows=part.rows,
                slice=part,
                model=self.model,
                showing=make_showing(self.spec, part.shard.dataset, system=self.model.system),
                steering=steering,
                max_new_tokens=self.spec.generation.max_new_tokens,
                batch_size=self.spec.batch_size,
            )
            for condition, steering in ways
            for part in parts[condition]
        ]

    def overhead_jobs(self, samples: Samples, steered: Sequence[Steering]) -> list[OverheadJob]:
        """Each data set's timing, plain and under each intervention, where the spec asks for it."""
        overhead = self.spec.overhead
        if overhead is None:
            return []
        ways = (None, *steered)
        return [
            OverheadJob(
                store=self.store,
                label=part.shard.dataset,
                rows=min(overhead.samples, part.rows) * overhead.repeats * len(ways),
                slice=part,
                model=self.model,
                showing=make_showing(self.spec, part.shard.dataset, system=self.model.system),
                ways=ways,
                samples=overhead.samples,
                repeats=overhead.repeats,
                batch_size=overhead.batch_size,
                max_new_tokens=self.spec.generation.max_new_tokens,
            )
            for part in choose_timed(list(self._targets(samples, "image")))
        ]

    def _embed(self, part: Slice, steering: Steering | None = None) -> EmbedJob:
        return EmbedJob(
            store=self.store,
            label=_label(part, steering),
            rows=part.rows,
            slice=part,
            model=self.model,
            showing=make_showing(self.spec, part.shard.dataset, system=self.model.system),
            steering=steering,
            batch_size=self.spec.batch_size,
        )

    def _dataset_level(self) -> list[InterventionSpec]:
        return [one for one in self.spec.all_interventions() if one.level == "dataset"]

    def _targets(self, samples: Samples, condition: Condition) -> Iterator[Slice]:
        return self._slices(samples, self.spec.judged(), split="target", conditions=[condition])

    def _slices(
        self, samples: Samples, datasets: Iterable[str], *, split: Split, conditions: Sequence[Condition]
    ) -> Iterator[Slice]:
        names = list(datasets)
        for condition in conditions:
            for name in names:
                yield from slice_samples(
                    self.store, samples[name].key, split, condition, self.spec.shard_size
                )


def make_showing(spec: Spec, dataset: str, *, system: str | None = None) -> Showing:
    """How a data set's samples are shown."""
    images = spec.images
    red, green, blue = images.color
    return Showing(
        images=spec.datasets[dataset].images,
        meaningless=make_meaningless(size=images.size, color=(red, green, blue), seed=images.seed),
        system=system,
    )


def _steer(intervention: InterventionSpec, alpha: float, shifts: Shifts) -> Steering:
    blocks = intervention.blocks
    return Steering(
        name=intervention.name,
        level=intervention.level,
        image=intervention.image,
        method=intervention.method,
        alpha=alpha,
        blocks=tuple(blocks) if isinstance(blocks, list) else blocks,
        scope=intervention.scope,
        composition=intervention.composition,
        shift=shifts[intervention.image, intervention.method] if intervention.level == "dataset" else None,
    )


def _label(part: Slice, steering: Steering | None) -> str:
    return part.label if steering is None else f"{part.label}, {steering.name} α={steering.alpha:g}"
