"""Plan of one model: jobs that extract hidden states, measure Δ, generate answers and time the overhead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cmrm.prompts.conditions import Condition
from cmrm.steering.parts import list_chain, pair_conditions
from flows.plan.blocks import refuse_missing_blocks
from flows.plan.captions import CaptionPlan
from flows.plan.probes import make_probe_jobs
from flows.plan.states import Samples, StatesPlan, label_job
from flows.plan.steps import Generated, make_step
from flows.plan.uses import Directions, Shifts, make_use
from flows.spec.interventions import DefenceSpec, StackSpec, is_stepped
from storage.records.manifest import Manifest
from tasks.core.models import ModelUse
from tasks.generate.captions import CaptionJob
from tasks.generate.job import GenerateJob
from tasks.overhead import OverheadJob, SteppedArm, choose_timed
from tasks.shards.samples import Captions, Shard, Slice
from tasks.states.direction import DirectionJob, LabelledStates, digest_labels
from tasks.states.extract import EmbedJob
from tasks.states.probe import ProbeJob
from tasks.states.shift import ShiftJob
from tasks.states.shift_parts import PartsJob, list_conditions
from tasks.states.steering import (
    DefenceUse,
    SingleUse,
    StackUse,
    StepUse,
    Use,
    list_steps,
    needs_plain,
)


@dataclass(frozen=True, kw_only=True)
class ModelPlan(StatesPlan):
    """The jobs of one model.

    `captioner` is the model that captions images for it, if the spec asks for captions. `backbone` is the text-only
    model that answers beside it, if the spec names one.
    """

    captioner: ModelUse | None = None
    backbone: ModelUse | None = None

    def caption_jobs(self, samples: Samples) -> list[CaptionJob]:
        """Caption the images whose captions are shown to this model, if the spec asks for it."""
        return [] if self._captioning is None else self._captioning.jobs(samples)

    def with_captions(self, captioned: Iterable[tuple[CaptionJob, Manifest]]) -> ModelPlan:
        """The plan of the jobs that follow, which show these captions."""
        if self.spec.captions is None:
            return self
        given_to = self.spec.captions.samples
        made = {job.slice.shard: Captions(key=made.key, given_to=given_to) for job, made in captioned}
        return replace(self, captions=made)

    def for_backbone(self) -> ModelPlan | None:
        """The plan of the backbone, if the spec names one: the same text prompts with the same captions."""
        if self.backbone is None:
            return None
        update = {
            "conditions": self.spec.list_text_conditions(),
            "interventions": [],
            "parts": [],
            "directions": [],
            "target_states": [],
            "steered_states": [],
        }
        return replace(
            self,
            spec=self.spec.model_copy(update=update),
            model=self.backbone,
            backbone=None,
            shown_as=self.model,
        )

    def shift_jobs(self, states: Mapping[Slice, str]) -> list[ShiftJob]:
        """Measure one Δ for each image, method and part of the interventions; `states` are manifest keys."""
        anchors = _group_anchors(states)
        jobs = []
        for one in self.spec.shifts():
            pair = pair_conditions(one.part, one.image)
            # A part is measured on the anchors that have the states of all parts.
            others = [] if one.part == "all" else [name for name in list_chain(one.image) if name not in pair]
            jobs.append(
                ShiftJob(
                    store=self.store.url,
                    label=f"Δ from {one.image} images, {one.method}"
                    + ("" if one.part == "all" else f", its part of {one.part}"),
                    rows=len(anchors),
                    model=self.model,
                    image=one.image,
                    method=one.method,
                    part=one.part,
                    # Sorted, so that the order of the data sets in the spec does not change the key of Δ.
                    pairs=tuple(sorted(tuple(shard[name] for name in (*pair, *others)) for shard in anchors)),
                )
            )
        return jobs

    def parts_jobs(self, states: Mapping[Slice, str]) -> list[PartsJob]:
        """Take the Δ of each image apart that the spec asks for; `states` are manifest keys."""
        anchors = _group_anchors(states)
        return [
            PartsJob(
                store=self.store.url,
                label=f"Δ from {image} images",
                rows=len(anchors),
                model=self.model,
                image=image,
                # Sorted, so that the order of the data sets in the spec does not change the key.
                shards=tuple(
                    sorted(
                        ({name: shard[name] for name in list_conditions(image)} for shard in anchors),
                        key=lambda shard: shard["query"],
                    )
                ),
            )
            for image in self.spec.taken_apart()
        ]

    def direction_jobs(self, states: Mapping[Slice, str]) -> list[DirectionJob]:
        """Measure one labelled direction for each condition that a defence needs; `states` are manifest keys."""
        return [
            DirectionJob(
                store=self.store.url,
                label=f"harmful − harmless under {condition}",
                rows=len(shards),
                model=self.model,
                condition=condition,
                # Sorted, so that the order of the data sets in the spec does not change the key.
                shards=tuple(sorted(shards, key=lambda one: one.states)),
            )
            for condition in self.spec.defence_directions()
            for shards in [
                [
                    LabelledStates(
                        states=key, shard=shard_view.shard, labels=digest_labels(self.store, shard_view.shard)
                    )
                    for shard_view, key in states.items()
                    if shard_view.shard.split == "anchor" and shard_view.condition == condition
                ]
            ]
        ]

    def probe_jobs(self, states: Iterable[tuple[EmbedJob, Manifest]]) -> list[ProbeJob]:
        """Measure directions and probes under each condition that the spec asks for, on plain and steered states."""
        made = list(states)
        return make_probe_jobs(self.spec, self.model, self.store, made) if self.spec.directions else []

    def steer(self, shifts: Shifts, directions: Directions) -> list[SingleUse]:
        """List every intervention with one generation, at every strength α.

        Raises `UserError` for a block that the model lacks.
        """
        single = {
            one.name: [make_use(one, alpha, shifts, directions) for alpha in one.strengths()]
            for one in self.spec.all_interventions()
            if not isinstance(one, StackSpec) and not is_stepped(one)
        }
        stacks = {
            one.name: [StackUse(name=one.name, parts=tuple(part for name in one.of for part in single[name]))]
            for one in self.spec.all_interventions()
            if isinstance(one, StackSpec)
        }
        uses: Mapping[str, Sequence[SingleUse]] = {**single, **stacks}
        refuse_missing_blocks((use for some in uses.values() for use in some), self.store)
        return [use for one in self.spec.all_interventions() for use in uses.get(one.name, ())]

    def list_stepped(self, directions: Directions) -> list[DefenceUse]:
        """List the defences with several generations, at every strength α.

        Raises `UserError` for a block that the model lacks.
        """
        uses = [
            use
            for one in self.spec.all_interventions()
            if isinstance(one, DefenceSpec) and is_stepped(one)
            for alpha in one.strengths()
            if isinstance(use := make_use(one, alpha, {}, directions), DefenceUse)
        ]
        refuse_missing_blocks(uses, self.store)
        return uses

    def count_steps(self, stepped: Sequence[DefenceUse]) -> int:
        """Count the generations of the defence that has most, without the baseline."""
        return max((len(list_steps(use)) for use in stepped), default=0)

    def step_jobs(
        self, number: int, samples: Samples, stepped: Sequence[DefenceUse], done: Mapping[Generated, str]
    ) -> list[GenerateJob]:
        """Generate one step of each defence with several generations, the last with its answers.

        `number` counts steps from 0. `done` holds the keys of the responses
        of all steps before, and of the baselines.
        """
        conditions = {one.name: one.conditions for one in self.spec.all_interventions()}
        return [
            self._generate(shard_view, step)
            for use in stepped
            if number < len(list_steps(use))
            for condition in conditions[use.name]
            for shard_view in self._targets(samples, condition)
            for captioned in [self._list_captioned(use, shard_view)]
            # What the run's captions say is not generated again.
            if list_steps(use)[number] not in captioned
            for step in [self._make_step(use, shard_view, done, number, captioned)]
        ]

    def generate_jobs(self, samples: Samples, steered: Sequence[SingleUse]) -> list[GenerateJob]:
        """Generate answers in every arm: baselines under each condition, then each intervention under its own.

        A spec without conditions asks for no answers, only for states and timings.
        """
        if not self.spec.conditions:
            return []
        conditions = {one.name: one.conditions for one in self.spec.all_interventions()}
        arms: list[tuple[Condition, SingleUse | None]] = [
            *((condition, None) for condition in self.spec.conditions),
            *((condition, one) for one in steered for condition in conditions[one.name]),
        ]
        shards = {condition: list(self._targets(samples, condition)) for condition in dict(arms)}
        return [
            self._generate(shard_view, steering)
            for condition, steering in arms
            for shard_view in shards[condition]
        ]

    def overhead_jobs(
        self,
        samples: Samples,
        steered: Sequence[SingleUse],
        stepped: Sequence[DefenceUse],
        done: Mapping[Generated, str],
    ) -> list[OverheadJob]:
        """Time the overhead per data set, baseline and each intervention, if the spec asks for it.

        `done` is as for `step_jobs`: which steps a sample needs is known from its answers.
        """
        overhead = self.spec.overhead
        if overhead is None:
            return []
        conditions = {one.name: one.conditions for one in self.spec.all_interventions()}
        timed = [use for use in stepped if "image" in conditions[use.name]]
        return [
            OverheadJob(
                store=self.store.url,
                label=shard_view.shard.dataset,
                rows=min(overhead.samples, shard_view.rows)
                * overhead.repeats
                * (1 + len(steered) + len(timed)),
                slice=shard_view,
                model=self.model,
                showing=self._make_builder(shard_view),
                arms=(None, *steered, *(self._time_steps(use, shard_view, done) for use in timed)),
                samples=overhead.samples,
                repeats=overhead.repeats,
                batch_size=overhead.batch_size,
                max_new_tokens=self.spec.generation.max_new_tokens,
            )
            for shard_view in choose_timed(list(self._targets(samples, "image")))
        ]

    def _time_steps(self, use: DefenceUse, shard_view: Slice, done: Mapping[Generated, str]) -> SteppedArm:
        plain = (None,) if needs_plain(use) else ()
        captioned = self._list_captioned(use, shard_view)
        # With the step that a caption of the run stands for: the report counts its tokens, too.
        steps = (
            self._make_step(use, shard_view, done, number, captioned)
            for number in range(len(list_steps(use)))
        )
        return SteppedArm(name=use.name, alpha=use.alpha, passes=(*plain, *steps))

    def _make_step(
        self,
        use: DefenceUse,
        shard_view: Slice,
        done: Mapping[Generated, str],
        number: int,
        captioned: Mapping[str, str],
    ) -> StepUse:
        marks, store = self.model.reasoning, self.store.url
        return make_step(use, shard_view, done, number, captioned, reasoning=marks, store=store)

    def _list_captioned(self, use: DefenceUse, shard_view: Slice) -> dict[str, str]:
        """The keys of the run's captions that steps of a defence would repeat, by step."""
        found = {step: self._find_captions(use, step, shard_view) for step in list_steps(use)}
        return {step: key for step, key in found.items() if key}

    def _generate(self, shard_view: Slice, steering: Use | None) -> GenerateJob:
        return GenerateJob(
            store=self.store.url,
            label=label_job(shard_view, steering),
            rows=shard_view.rows,
            slice=shard_view,
            model=self.model,
            showing=self._make_builder(shard_view),
            steering=steering,
            max_new_tokens=self.spec.generation.max_new_tokens,
            batch_size=self.spec.batch_size,
            fixed_batch=self.spec.fixed_batch,
        )

    @property
    def _captioning(self) -> CaptionPlan | None:
        if self.spec.captions is None or self.captioner is None:
            return None
        return CaptionPlan(
            spec=self.spec,
            captions=self.spec.captions,
            judged=self.model,
            captioner=self.captioner,
            store=self.store,
        )

    def _find_captions(self, use: DefenceUse, step: str, shard_view: Slice) -> str | None:
        """The key of the captions that a step of a defence would repeat; None if it has to be run."""
        captioning = self._captioning
        if (
            captioning is None
            or shard_view.condition != "image"
            or not captioning.replaces(use.defence, step)
        ):
            return None
        return self.captions[shard_view.shard].key


def _group_anchors(states: Mapping[Slice, str]) -> list[dict[str, str]]:
    """Group the keys of anchors' states by shard: by condition in each."""
    found: dict[Shard, dict[str, str]] = {}
    for shard_view, key in states.items():
        if shard_view.shard.split == "anchor":
            # The same samples, whether or not captions were generated for them.
            shard = replace(shard_view.shard, captions=None)
            found.setdefault(shard, {})[shard_view.condition] = key
    return list(found.values())
