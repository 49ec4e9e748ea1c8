"""A plan: the spec with its model resolved, turned stage by stage into jobs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cmrm.conditions import Condition
from cmrm.images import MeaninglessImage
from cmrm.revision import ModelIdentity, resolve_model
from flows.spec import InterventionSpec, Spec
from storage.manifest import Manifest
from storage.store import Store
from tasks.embed import EmbedJob
from tasks.generate import GenerateJob, Steering
from tasks.ingest import IngestJob, plan_ingest
from tasks.judge import JudgeJob, plan_judging
from tasks.models import ModelUse
from tasks.prompts import Showing
from tasks.report import ReportJob
from tasks.samples import Slice, Split, read_samples, slice_samples
from tasks.shift import ShiftJob

Samples = Mapping[str, Manifest]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be run: `spec` on the resolved model, kept in `store`."""

    spec: Spec
    identity: ModelIdentity
    store: str

    @property
    def model(self) -> ModelUse:
        """The model as the stages use it."""
        model = self.spec.model
        return ModelUse(
            identity=self.identity,
            label=model.name,
            dtype=model.dtype,
            device=model.device,
            attn_implementation=model.attn_implementation,
            system=model.system,
        )

    def ingest_jobs(self) -> list[IngestJob]:
        """One job a data set."""
        return [
            plan_ingest(
                store=self.store,
                dataset=name,
                format=dataset.format,
                path=dataset.path,
                images=dataset.images,
                options=dataset.options(),
                fraction=self.spec.anchors.from_.get(name, 0.0),
                seed=self.spec.anchors.seed,
            )
            for name, dataset in self.spec.datasets.items()
        ]

    def embed_jobs(self, samples: Samples) -> list[EmbedJob]:
        """The anchors as text and with each image, for Δ and the figure; then those targets whose states are wanted."""
        needed: set[Condition] = {"query", *(one.image for one in self._dataset_level())}
        conditions = [
            one for one in ("query", "image", "blank", "noise") if one in needed | set(self.spec.conditions)
        ]
        anchors = self._slices(samples, self.spec.anchors.from_, split="anchor", conditions=conditions)
        targets = self._slices(
            samples, self.spec.judged(), split="target", conditions=self.spec.target_states
        )
        return [
            EmbedJob(
                store=self.store,
                label=_label(part),
                rows=part.rows,
                slice=part,
                model=self.model,
                showing=self._showing(part.shard.dataset),
                batch_size=self.spec.batch_size,
            )
            for part in (*anchors, *targets)
        ]

    def shift_jobs(self, states: Mapping[Slice, str]) -> list[ShiftJob]:
        """One Δ for each meaningless image that a dataset-level intervention uses; `states` are embed keys."""
        anchors = {part: key for part, key in states.items() if part.shard.split == "anchor"}
        text = {part.shard: key for part, key in anchors.items() if part.condition == "query"}
        return [
            ShiftJob(
                store=self.store,
                label=f"Δ from {image} images",
                rows=len(pairs),
                model=self.model,
                image=image,
                pairs=pairs,
            )
            for image in dict.fromkeys(one.image for one in self._dataset_level())
            for pairs in [
                tuple((key, text[part.shard]) for part, key in anchors.items() if part.condition == image)
            ]
        ]

    def generate_jobs(self, samples: Samples, shifts: Mapping[str, str]) -> list[GenerateJob]:
        """The targets under each condition as they are, then with their own image under each intervention."""
        plain: list[tuple[Condition, Steering | None]] = [
            (condition, None) for condition in self.spec.conditions
        ]
        steered: list[tuple[Condition, Steering | None]] = [
            ("image", _steer(one, alpha, shifts))
            for one in self.spec.interventions
            for alpha in one.strengths()
        ]
        return [
            GenerateJob(
                store=self.store,
                label=_label(part)
                if steering is None
                else f"{_label(part)}, {steering.name} α={steering.alpha:g}",
                rows=part.rows,
                slice=part,
                model=self.model,
                showing=self._showing(part.shard.dataset),
                steering=steering,
                max_new_tokens=self.spec.generation.max_new_tokens,
                batch_size=self.spec.batch_size,
            )
            for condition, steering in plain + steered
            for part in self._slices(samples, self.spec.judged(), split="target", conditions=[condition])
        ]

    def judge_jobs(self, samples: Samples, answers: Sequence[tuple[GenerateJob, Manifest]]) -> list[JudgeJob]:
        """Every shard of answers before every judge."""
        store = Store.open(self.store)
        targets = {name: read_samples(store, samples[name], "target") for name in self.spec.judged()}
        return [
            judging
            for job, responses in answers
            for judging in plan_judging(
                store=store,
                responses=responses,
                ingest=samples[job.slice.shard.dataset],
                samples=targets[job.slice.shard.dataset],
                judges=self.spec.judges,
                label=job.label,
            )
        ]

    def report_jobs(self, used: Mapping[str, Sequence[Manifest]]) -> list[ReportJob]:
        """One report over all that the run made."""
        return [
            ReportJob(
                store=self.store,
                label=self.model.name,
                rows=1,
                model=self.model,
                ingests=tuple(manifest.key for manifest in used["ingest"]),
                anchor_states=tuple(manifest.key for manifest in used["anchor states"]),
                target_states=tuple(manifest.key for manifest in used["target states"]),
                shifts=tuple(manifest.key for manifest in used["shift"]),
                responses=tuple(manifest.key for manifest in used["generate"]),
                judgements=tuple(manifest.key for manifest in used["judge"]),
            )
        ]

    def _dataset_level(self) -> list[InterventionSpec]:
        return [one for one in self.spec.interventions if one.level == "dataset"]

    def _slices(
        self, samples: Samples, datasets: Iterable[str], *, split: Split, conditions: Sequence[Condition]
    ) -> Iterator[Slice]:
        store = Store.open(self.store)
        sides = {name: read_samples(store, samples[name], split) for name in datasets}
        for condition in conditions:
            for name, side in sides.items():
                yield from slice_samples(
                    side,
                    manifest=samples[name],
                    split=split,
                    condition=condition,
                    shard_size=self.spec.shard_size,
                )

    def _showing(self, dataset: str) -> Showing:
        images = self.spec.images
        red, green, blue = images.color
        return Showing(
            images=self.spec.datasets[dataset].images,
            blank=MeaninglessImage(kind="blank", size=images.size, color=(red, green, blue)),
            noise=MeaninglessImage(kind="noise", size=images.size, seed=images.seed),
            system=self.spec.model.system,
        )


def make_plan(spec: Spec, *, store: str) -> Plan:
    """Resolve the spec's model to an immutable revision; `UserError` when it cannot be, before any model work."""
    identity = resolve_model(spec.model.id, revision=spec.model.revision)
    return Plan(spec=spec, identity=identity, store=Store.open(store).url)


def _steer(intervention: InterventionSpec, alpha: float, shifts: Mapping[str, str]) -> Steering:
    blocks = intervention.blocks
    return Steering(
        name=intervention.name,
        level=intervention.level,
        image=intervention.image,
        alpha=alpha,
        blocks=tuple(blocks) if isinstance(blocks, list) else blocks,
        scope=intervention.scope,
        composition=intervention.composition,
        shift=shifts[intervention.image] if intervention.level == "dataset" else None,
    )


def _label(part: Slice) -> str:
    shard = part.shard
    return f"{shard.dataset} {part.condition} {shard.start}–{shard.stop}"
