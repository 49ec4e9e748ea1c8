"""The header of a run's Inspect log: model, data set, arm, steering with its proof, software and times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import PurePath
from typing import Any

from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalLog,
    EvalPlan,
    EvalPlanStep,
    EvalResults,
    EvalSpec,
    EvalStats,
)
from inspect_ai.model import GenerateConfig, ModelUsage

from flows.answering.arm import PLAIN_ARM
from flows.inspect.log_source import LogSource, RunSource
from storage.records.hashing import digest
from storage.records.manifest import Manifest
from storage.shards.rows import need_manifest
from tasks.core.quarantine import read_quarantine
from tasks.core.software import gather_software
from tasks.core.stage_name import StageName
from tasks.imported.inspect_logs import RUN_FIELD
from tasks.report.summary import read_summary
from tasks.report.table import name_arm

ID_LETTERS = 22
# The metric of edited scores, in Inspect's registry.
METRIC = "cmrm/rates"
# Fields of a run's record of a model that its log repeats; its id may be a path on the machine of the run.
MODEL_FIELDS = (
    "label",
    "revision",
    "fingerprint",
    "dtype",
    "image_backend",
    "attn_implementation",
    "system",
    "adapter",
    "backbone_weights",
    "quantization",
    "of",
    "backbone",
)


class HeaderWriter:
    """Writes the headers of a run's logs: what concerns the whole run is read once."""

    def __init__(self, source: RunSource) -> None:
        self._source = source
        run = source.run
        self._record = run.record
        self._models: Mapping[str, Mapping[str, Any]] = {
            one["name"]: one for one in (*run.plan.models, *run.plan.backbones)
        }
        self._table = read_summary(source.store, run.report).table
        self._settings: Mapping[str, Mapping[str, str]] = run.report.content["settings"]
        self._rejected = {
            made.content["dataset"]: _count_rejected(source, made) for made in run.used[StageName.INGEST]
        }

    @property
    def created(self) -> datetime:
        """When the run began, UTC."""
        return datetime.fromisoformat(self._record["created_at"]).astimezone(UTC)

    def name_model(self, log: LogSource) -> str:
        """Name a log's model as Inspect does: provider and model."""
        model = self._models.get(log.name.arm.model)
        if model is None or "of" in model:
            # The provider answers for no text-only model. Answers of another system stand under its own name, at the
            # provider that answers nothing: Inspect scores no log whose model has none.
            return f"none/{model['label'] if model else log.name.arm.model}"
        return f"cmrm/{name_apart(model, list(self._models.values()))}"

    def make_id(self, log: LogSource, what: str) -> str:
        """Make an id of a log: the same for each export."""
        named = [self._record["run_id"], *log.name.arm, log.name.dataset, what]
        return digest(named)[:ID_LETTERS]

    def write(
        self, log: LogSource, *, ids: Sequence[str], results: EvalResults, usage: ModelUsage | None
    ) -> EvalLog:
        """Write the header of a log with these samples."""
        arm, content = log.name.arm, log.content
        model = self.name_model(log)
        manifests = log.list_manifests()
        times = sorted(
            datetime.fromisoformat(one.created_at).astimezone(UTC).isoformat() for one in manifests
        )
        decoding = content.get("decoding")
        config = (
            GenerateConfig()
            if decoding is None
            else GenerateConfig(max_tokens=decoding["max_new_tokens"], temperature=0.0)
        )
        spec = EvalSpec(
            eval_id=self.make_id(log, "eval"),
            run_id=self._record["run_id"],
            task_id=self.make_id(log, "task"),
            created=self.created.isoformat(),
            task=log.name.dataset,
            task_args={
                "arm": name_arm(arm),
                "condition": arm.condition,
                "intervention": arm.intervention,
                "alpha": arm.alpha,
            },
            tags=[name_arm(arm)],
            dataset=EvalDataset(
                name=log.name.dataset, samples=len(ids), sample_ids=list(ids), shuffled=False
            ),
            model=model,
            model_generate_config=config,
            model_args=self._name_arguments(log),
            config=EvalConfig(epochs=1, fail_on_error=False, log_images=True),
            packages=_list_packages(manifests),
            scorers=_list_scorers(results),
            headline_metric=results.headline,
            metadata=self._describe_run(log),
        )
        return EvalLog(
            status="success",
            eval=spec,
            plan=EvalPlan(steps=[EvalPlanStep(solver="generate")], config=config),
            results=results,
            stats=EvalStats(
                started_at=times[0],
                completed_at=times[-1],
                model_usage={} if usage is None else {model: usage},
            ),
        )

    def _name_arguments(self, log: LogSource) -> dict[str, Any]:
        """The arguments (`-M`) under which the provider answers as this arm did; {} where it does not."""
        arm, run = log.name.arm, self._record["run_id"]
        if "of" in self._models.get(arm.model, {"of": ""}):
            return {}
        strength = {} if arm.alpha is None else {"alpha": arm.alpha}
        return {"shift": run, "arm": arm.intervention or PLAIN_ARM, **strength}

    def _describe_model(self, log: LogSource) -> dict[str, Any]:
        model = self._models.get(log.name.arm.model, {})
        devices = dict.fromkeys(one.responses.provenance.get("device") for one in log.shards)
        known = ", ".join(str(one) for one in devices if one is not None)
        return {
            **{name: model[name] for name in MODEL_FIELDS if model.get(name) is not None},
            **({"device": known} if known else {}),
        }

    def _describe_run(self, log: LogSource) -> dict[str, Any]:
        arm, content = log.name.arm, log.content
        row = next((row for row in self._table.rows if row.arm == arm), None)
        return {
            RUN_FIELD: self._record["run_id"],
            "title": self._source.run.plan.spec.title,
            "model": self._describe_model(log),
            "arm": {
                **arm._asdict(),
                "name": name_arm(arm),
                "settings": self._settings.get(arm.intervention, {}),
            },
            "decoding": content.get("decoding"),
            # The file of answers that another system gave.
            "imported": content.get("answers"),
            "shown_image": content["image"],
            "steering": None if content["intervention"] is None else self._describe_steering(log),
            # The arm's row of the report's main table, over all data sets.
            "report": []
            if row is None
            else [
                {**asdict(column), **asdict(cell.value), "value": cell.value.value}
                for column, cell in zip(self._table.columns, row.cells, strict=True)
            ],
            "rejected_rows": self._rejected.get(log.name.dataset, {}),
            "answers": [one.responses.key for one in log.shards],
        }

    def _describe_steering(self, log: LogSource) -> dict[str, Any]:
        """The intervention as the key of the answers has it, the files of its Δ, and the proof that it acted."""
        intervention: Mapping[str, Any] = log.content["intervention"]
        parts: Sequence[Mapping[str, Any]] = intervention.get("parts") or [intervention]
        made = [
            self._describe_file(stage, part[field])
            for part in parts
            for stage, field in ((StageName.SHIFT, "shift"), (StageName.DIRECTION, "direction"))
            if isinstance(part.get(field), str)
        ]
        return {"intervention": dict(intervention), "measured": made, "proof": _add_proofs(log)}

    def _describe_file(self, stage: StageName, key: str) -> dict[str, Any]:
        made = need_manifest(self._source.store, stage, key)
        return {
            "stage": stage.value,
            "key": key,
            "sha256": [file.sha256 for file in made.files],
            "measured_on": {
                name: made.provenance[name]
                for name in ("model", "image", "condition", "method", "part", "count")
                if name in made.provenance
            },
        }


def name_apart(model: Mapping[str, Any], models: Sequence[Mapping[str, Any]]) -> str:
    """Name a model of a run by its id, or its label if the id is a path, and in full where others are named so too."""
    own = str(model["id"])
    names = [own, model.get("label"), model["name"]]
    known = [{one["id"], one.get("label"), one["name"]} for one in models]
    return next(
        str(name)
        for name in (names[1:] if PurePath(own).is_absolute() else names)
        if name is not None and (name == model["name"] or sum(name in one for one in known) == 1)
    )


def _add_proofs(log: LogSource) -> dict[str, Any]:
    """Add up the proofs of steering by block: how often it acted, and mean distances asked for and moved.

    They are of what was answered since a job was last resumed, as the store has them.
    """
    acted: Counter[str] = Counter()
    moved: dict[str, Counter[str]] = {}
    for shard in log.shards:
        provenance = shard.responses.provenance
        acted.update(provenance.get("steered_states_since_resumed") or {})
        for block, one in (provenance.get("steered_distances_since_resumed") or {}).items():
            total = moved.setdefault(block, Counter())
            prompts = one["prompts"]
            total.update(
                {
                    "prompts": prompts,
                    "without_effect": one["without_effect"],
                    "asked": one["asked"] * prompts,
                    "moved": one["moved"] * prompts,
                }
            )
    return {
        block: {
            "acted": count,
            **{
                name: total[name] / total["prompts"] if name in {"asked", "moved"} else total[name]
                for name in total
            },
        }
        for block, count in sorted(acted.items(), key=lambda one: int(one[0]))
        for total in [moved.get(block, Counter[str]())]
    }


def _list_scorers(results: EvalResults) -> Any:
    """The scorers as an evaluation lists them, so that Inspect can count edited scores anew."""
    return [{"name": one.name, "metrics": [{"name": METRIC}]} for one in results.scores]


def _list_packages(manifests: Sequence[Manifest]) -> dict[str, str]:
    """The versions that made answers and verdicts, and the release of Inspect that the log is written for."""
    found = gather_software(manifests)
    return {"inspect_ai": version("inspect_ai"), **{name: ", ".join(found[name]) for name in found}}


def _count_rejected(source: RunSource, ingested: Manifest) -> dict[str, int]:
    """Count the rows of a data set's file that are no samples, by reason."""
    return dict(Counter(row["reason"] for row in read_quarantine(source.store, [ingested])))
