"""A plan: the spec with its models resolved, turned stage by stage into jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from cmrm.adapters import resolve_adapter
from cmrm.errors import UserError
from cmrm.families import FAMILIES, Family, get_family
from cmrm.revision import resolve_model
from cmrm.system_lines import read_system_line
from flows.judge_plan import JudgePlan, resolve_judges
from flows.model_plan import ModelPlan, Samples
from flows.model_sections import ModelSpec
from flows.spec import Spec
from storage.manifest import Manifest
from storage.store import Store
from tasks.ingest import IngestJob, plan_ingest
from tasks.judges import JudgeUse
from tasks.models import ModelUse
from tasks.pair import Pairing, plan_pairing
from tasks.quarantine import explain_quarantine
from tasks.samples import count_samples
from tasks.sources import Source


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be run: `spec` on the resolved models, judged by the resolved judges, kept in `store`."""

    spec: Spec
    models: tuple[ModelUse, ...]
    judges: tuple[JudgeUse, ...]
    store: str

    def sources(self) -> list[Source]:
        """Where the data sets come from."""
        return [
            Source(
                dataset=name,
                format=dataset.format,
                path=dataset.path,
                images=dataset.images,
                options=dataset.options(),
                fraction=self.spec.anchors.from_.get(name, 0.0),
                limit=dataset.limit,
            )
            for name, dataset in self.spec.datasets.items()
        ]

    def pairings(self) -> list[Pairing]:
        """The pairings of those data sets whose questions are to be given images."""
        planned = (
            plan_pairing(
                source,
                store=self.store,
                pair_with=dataset.pair_with,
                clip=None if dataset.clip is None else dataset.clip.model_dump(),
            )
            for source, dataset in zip(self.sources(), self.spec.datasets.values(), strict=True)
        )
        return [pairing for pairing in planned if pairing is not None]

    def ingest_jobs(self, pairs: Mapping[str, Manifest]) -> list[IngestJob]:
        """One job a data set; `pairs` are the pairings by data set."""
        return plan_ingest(self.sources(), store=self.store, seed=self.spec.anchors.seed, pairs=pairs)

    def refuse_nothing_to_do(self, samples: Samples) -> None:
        """Raise `UserError` where no row can be used, no anchor was drawn though Δ needs some, or no target is left."""
        store = Store.open(self.store)
        counts: Counter[str] = Counter()
        for name, manifest in samples.items():
            sides = count_samples(store, manifest)
            if not any(sides.values()):
                reason = explain_quarantine(store, [manifest]) or "it has none"
                raise UserError(
                    f"datasets.{name}: none of its rows can be used. {reason.rstrip('.')}. All reasons: "
                    f'cmrm sql --store {self.store} "FROM quarantine"'
                )
            counts["anchor"] += sides["anchor"] * (self.spec.anchors.from_.get(name, 0.0) > 0)
            counts["target"] += sides["target"] * (name in self.spec.judged())
        if not counts["anchor"] and any(one.level == "dataset" for one in self.spec.all_interventions()):
            raise UserError("anchors.from: no anchor was drawn, so there is no Δ; give larger shares.")
        if not counts["target"]:
            raise UserError("anchors.from: every sample is an anchor, and none is left; give smaller shares.")

    def by_model(self) -> list[ModelPlan]:
        """The part of each model, in the order of the spec."""
        return [ModelPlan(spec=self.spec, model=model, store=self.store) for model in self.models]

    @property
    def judging(self) -> JudgePlan:
        """What becomes of the answers."""
        return JudgePlan(
            spec=self.spec,
            judges=self.judges,
            models=tuple(model.describe() for model in self.models),
            store=self.store,
        )


def make_plan(spec: Spec, *, store: str) -> Plan:
    """Resolve the spec's models and judges to immutable revisions; `UserError` when one cannot be, before any work."""
    models = tuple(resolve_use(model) for model in spec.all_models())
    names = [model.name for model in models]
    if repeated := [name for name in names if names.count(name) > 1]:
        # Their rows would be counted as one model's.
        raise UserError(
            f"models: {names.count(repeated[0])} of them are called {repeated[0]}; give each a `name` of its own."
        )
    return Plan(spec=spec, models=models, judges=resolve_judges(spec.judges), store=Store.open(store).url)


def resolve_use(model: ModelSpec) -> ModelUse:
    """Resolve a spec's model to an immutable revision; raises `UserError` when it cannot be."""
    row = None if model.family is None else model.family.model_dump()
    identity = resolve_model(
        model.id, revision=model.revision, trust_remote_code=model.trust_remote_code, family=row
    )
    adapter, attention = model.adapter, model.attn_implementation
    family = None if row is None else Family(model_type=identity.model_type, **row)
    if family is None and identity.model_type not in FAMILIES:
        # A row of another package is in keys as one in the spec is: that package can change, or be missing elsewhere.
        family = get_family(identity.model_type, where=model.id)
    if attention == "auto":
        # What it stands for is in keys, not the word: it may come to stand for another.
        attention = (family or get_family(identity.model_type, where=model.id)).attention
    return ModelUse(
        identity=identity,
        label=model.name,
        dtype=model.dtype,
        device=model.device,
        attn_implementation=attention,
        system=None if model.system is None else read_system_line(model.system),
        device_map=model.device_map,
        quantization=None if model.quantization is None else model.quantization.make(),
        adapter=None if adapter is None else resolve_adapter(adapter.id, revision=adapter.revision),
        family=family,
    )
