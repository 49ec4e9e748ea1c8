"""Plan of a run: the spec with models resolved to revisions, turned into jobs stage by stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from cmrm.errors import UserError
from cmrm.models.adapters import resolve_adapter
from cmrm.models.control_prompts import explain_no_controls
from cmrm.models.families import Derivation, Family
from cmrm.models.family_lookup import find_family
from cmrm.models.family_table import FAMILIES
from cmrm.models.gguf_weights import resolve_gguf
from cmrm.models.image_backend import pin_image_backend
from cmrm.models.image_tokens import explain_no_image_tokens
from cmrm.models.reasoning import find_reasoning_marks
from cmrm.models.revision import resolve_model
from cmrm.models.system_prompts import read_system_line
from cmrm.models.text_models import choose_prompts, resolve_text_model
from cmrm.steering.settings import IMAGE_POSITIONS
from cmrm.untrusted.printable import show
from flows.plan.captions import refuse_no_images
from flows.plan.counterparts import refuse_contrast
from flows.plan.imported import refuse_model_names, survey_imported
from flows.plan.judge import JudgePlan, resolve_judges
from flows.plan.model import ModelPlan
from flows.plan.sources import fetch_files, fetch_named, make_source
from flows.plan.states import Samples
from flows.spec.model_sections import ModelSpec
from flows.spec.spec import Spec
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.core.models import BackboneUse, ModelUse
from tasks.core.quarantine import explain_quarantine
from tasks.data.ingest import IngestJob, plan_ingest
from tasks.data.pair import Pairing, plan_pairing
from tasks.data.sources import Source
from tasks.imported.survey import SurveyedAnswers
from tasks.judge.loaded import JudgeUse
from tasks.shards.samples import count_samples

# Ends the name of a text-only model in tables.
MARK = "(backbone)"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Plan of a run: `spec` on the resolved models, judged by the resolved judges, stored in `store`.

    `files` maps the URLs of remote files in the spec to local copies; `fetched` identifies this plan in downloads of
    images. `captioner` is the model that captions images for all, None where each judged model does. `backbones` are
    the text-only models that answer beside some models, by these models' names.
    """

    spec: Spec
    models: tuple[ModelUse, ...]
    judges: tuple[JudgeUse, ...]
    store: Store
    files: Mapping[str, Path] = field(default_factory=dict)
    fetched: str = ""
    captioner: ModelUse | None = None
    backbones: Mapping[str, ModelUse] = field(default_factory=dict)

    def sources(self) -> list[Source]:
        """List the sources of the data sets."""
        return [
            make_source(
                name,
                dataset,
                files=self.files,
                kept=self.store.image_cache(name),
                fraction=self.spec.anchors.from_.get(name, 0.0),
                run=self.fetched,
            )
            for name, dataset in self.spec.datasets.items()
        ]

    def pairings(self) -> list[Pairing]:
        """Plan the pairing of questions with images, for the data sets that ask for it."""
        planned = (
            plan_pairing(
                source,
                store=self.store.url,
                pair_with=None if dataset.pair_with is None else self._find_file(dataset.pair_with),
                clip=None if dataset.clip is None else dataset.clip.model_dump(),
            )
            for source, dataset in zip(self.sources(), self.spec.datasets.values(), strict=True)
        )
        return [pairing for pairing in planned if pairing is not None]

    def ingest_jobs(self, pairs: Mapping[str, Manifest]) -> list[IngestJob]:
        """Make one ingest job per data set; `pairs` holds the pairings by data set."""
        return plan_ingest(self.sources(), store=self.store, seed=self.spec.anchors.seed, pairs=pairs)

    def refuse_nothing_to_do(self, samples: Samples) -> None:
        """Raise `UserError` if no row is usable, no anchor was drawn for a dataset-level Δ, or no target is left.

        So it is if captions are asked for and there is no image, and for noise of a stated contrast in place of media.
        """
        counts: Counter[str] = Counter()
        for name, manifest in samples.items():
            splits = count_samples(self.store, manifest)
            if not any(splits.values()):
                reason = explain_quarantine(self.store, [manifest]) or "it has none"
                raise UserError(
                    f"datasets.{name}: none of its rows can be used. {reason.rstrip('.')}. All reasons: "
                    f'cmrm sql --store {self.store.url} "FROM quarantine"'
                )
            counts["anchor"] += splits["anchor"] * (self.spec.anchors.from_.get(name, 0.0) > 0)
            counts["target"] += splits["target"] * (name in self.spec.judged())
        if not counts["anchor"] and self.spec.needs_anchors():
            raise UserError("anchors.from: no anchor was drawn, so there is no Δ; give larger shares.")
        if not counts["target"]:
            raise UserError("anchors.from: every sample is an anchor, and none is left; give smaller shares.")
        refuse_no_images(self.spec, samples, self.store)
        refuse_contrast(self.spec, samples, self.store)

    def survey_imported(self, samples: Samples) -> list[SurveyedAnswers]:
        """Find the sample of each answer that another system gave; raises `UserError` before any model is loaded."""
        files = [arm.make(name, self.files) for name, arm in self.spec.arms.items()]
        return survey_imported(files, self.spec, samples, self.store)

    def by_model(self) -> list[ModelPlan]:
        """Split the plan by model, in the order of the spec."""
        return [
            ModelPlan(
                spec=self.spec,
                model=model,
                store=self.store,
                captioner=self.captioner or model,
                backbone=self.backbones.get(model.name),
            )
            for model in self.models
        ]

    def _find_file(self, path: Path | str) -> Path:
        return path if isinstance(path, Path) else self.files[path]

    @property
    def judging(self) -> JudgePlan:
        """The plan of judging and reporting."""
        return JudgePlan(
            spec=self.spec,
            judges=self.judges,
            models=tuple(model.describe() for model in self.models),
            backbones=tuple(model.describe() for model in self.backbones.values()),
            store=self.store,
        )


def make_plan(spec: Spec, *, store: Store) -> Plan:
    """Resolve the spec's models and judges to immutable revisions; raises `UserError` before any work if one fails."""
    models = tuple(resolve_use(model) for model in spec.all_models())
    refuse_controls(spec, models)
    refuse_image_positions(spec, models)
    backbones = {
        use.name: backbone
        for model, use in zip(spec.all_models(), models, strict=True)
        for backbone in resolve_beside(model, use)
    }
    names = [model.name for model in (*models, *backbones.values())]
    if repeated := [name for name in names if names.count(name) > 1]:
        # Their rows could not be told apart in tables.
        raise UserError(
            f"models: {names.count(repeated[0])} of them are named {repeated[0]}; give each a unique `name`, or name a "
            "backbone that several share for one of them."
        )
    refuse_model_names(spec.arms, names)
    captioner = None if spec.captions is None else spec.captions.by
    return Plan(
        spec=spec,
        models=models,
        backbones=backbones,
        captioner=None if captioner is None else resolve_use(captioner),
        judges=resolve_judges(spec.judges),
        store=store,
        files={
            **fetch_files(spec.datasets),
            **fetch_named((f"arms.{show(name)}.answers", arm.answers) for name, arm in spec.arms.items()),
        },
        fetched=uuid4().hex,
    )


def refuse_controls(spec: Spec, models: Sequence[ModelUse]) -> None:
    """Raise `UserError` naming the field that asks for a control of a model whose image has no place in the prompt."""
    for field_name, control in spec.controls().items():
        for model in models:
            family = _find_row(model)
            # A row that is derived once the model is loaded refuses there.
            if family is not None and (reason := explain_no_controls(family)):
                what = "Δ cannot be taken apart" if field_name == "parts" else f"there is no {control}"
                raise UserError(f"{field_name}: {what} in {model.name}: {reason}.")


def refuse_image_positions(spec: Spec, models: Sequence[ModelUse]) -> None:
    """Raise `UserError` where states of image tokens are asked of a model whose prompts have none."""
    asked = [one for one in spec.positions if one in IMAGE_POSITIONS]
    for model in models if asked else ():
        family = _find_row(model)
        if family is not None and (reason := explain_no_image_tokens(family)):
            raise UserError(f"positions: there is no {asked[0]} in {model.name}: {reason}.")


def _find_row(model: ModelUse) -> Family | None:
    return model.family or find_family(model.identity.model_type)


def resolve_use(model: ModelSpec) -> ModelUse:
    """Resolve a spec's model to an immutable revision; raises `UserError` if that fails."""
    row = None if model.family is None else model.family.model_dump()
    identity = resolve_model(
        model.id, revision=model.revision, trust_remote_code=model.trust_remote_code, family=row
    )
    adapter, backbone, attention = model.adapter, model.backbone_weights, model.attn_implementation
    family = None if row is None else Family(model_type=identity.model_type, **row)
    if family is None and identity.model_type not in FAMILIES:
        # A plug-in's row is part of the key like one in the spec: that package can change, or be missing on a worker.
        family = find_family(identity.model_type)
    known = family or FAMILIES.get(identity.model_type)
    if attention == "auto" and known is not None:
        # The key holds what `auto` resolves to, which may change between releases. Without a row it is sdpa, or eager
        # where the model has no other: that follows from its files and from the transformers of the derivation.
        attention = known.attention
    return ModelUse(
        identity=identity,
        label=model.name,
        dtype=model.dtype,
        device=model.device,
        attn_implementation=attention,
        system=None if model.system is None else read_system_line(model.system),
        image_backend=pin_image_backend(identity.folder, asked=model.image_backend, where=model.id),
        device_map=model.device_map,
        quantization=None if model.quantization is None else model.quantization.make(),
        backbone_weights=None if backbone is None else resolve_gguf(backbone.gguf),
        adapter=None if adapter is None else resolve_adapter(adapter.id, revision=adapter.revision),
        family=family,
        derivation=Derivation.here() if known is None else None,
        reasoning=None
        if model.reasoning == "none"
        else find_reasoning_marks(
            identity.folder,
            template=None if known is None else known.template,
            asked=None if model.reasoning == "auto" else model.reasoning,
        ),
    )


def resolve_beside(section: ModelSpec, model: ModelUse) -> list[ModelUse]:
    """Resolve the text-only model that a section names beside its model, if any; raises `UserError`.

    It is loaded as that model is, but for what the section says of it.
    """
    if (backbone := section.backbone) is None:
        return []
    identity = resolve_text_model(backbone.id, revision=backbone.revision)
    template = choose_prompts(backbone.template, identity, model.identity.folder)
    marks = model.reasoning
    if template == "own" and section.reasoning != "none":
        asked = None if section.reasoning == "auto" else section.reasoning
        marks = find_reasoning_marks(identity.folder, asked=asked)
    own = backbone.name or identity.own_name.rpartition("/")[2]
    # Of the model's row its prompts depend on, and nothing else of the model's weights or code.
    shown_as_model = template == "model"
    use = ModelUse(
        identity=identity,
        label=own if own.endswith(MARK) else f"{own} {MARK}",
        dtype=backbone.dtype or model.dtype,
        device=backbone.device or model.device,
        attn_implementation=backbone.attn_implementation or model.attn_implementation,
        system=model.system,
        image_backend=model.image_backend,
        device_map=model.device_map if backbone.device is None else None,
        quantization=model.quantization,
        family=model.family if shown_as_model else None,
        derivation=model.derivation if shown_as_model else None,
        reasoning=marks,
        backbone=BackboneUse(
            of=model.name,
            prompts=model.identity,
            template=template,
            settings=model.identity.digest_settings(),
        ),
    )
    return [use]
