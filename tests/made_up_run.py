"""A made-up run in a store: what every stage would have committed, for reports to be written from."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmrm.models.revision import ModelIdentity
from storage.records.hashing import digest
from storage.records.manifest import Manifest
from storage.shards.hidden_states import hidden_states_table
from storage.store import Store
from storage.tables.arrow import from_rows, table_path
from storage.tables.parquet import to_parquet
from tasks.core.models import ModelUse
from tasks.report.outcomes import Arm
from tasks.report.stage import ReportJob, _report
from tests.made_up import EVIL, SETS, SETTINGS, judge_answer, list_arms, make_answers, make_samples

# Of the states.
BLOCKS = (2, 3)
ANCHORS = 4


class MadeUp(NamedTuple):
    """A store with a report stage's manifest, and all keys that it stands on."""

    store: Store
    report: Manifest
    keys: list[str]


def make_up(
    store: Store,
    *,
    models: Sequence[str] = ("llava-tiny",),
    samples: int = 24,
    strengths: Sequence[float] = (0.5, 1.0),
    judges: Sequence[str] = ("refusal", "match"),
) -> MadeUp:
    """Commit a run with states, timings and what was set aside, and report on it."""
    uses = [_use(name) for name in models]
    names = [use.name for use in uses]
    used = commit_answers(store, models=names, samples=samples, strengths=strengths, judges=judges)
    for name in names:
        used["embed"] += _commit_states(store, name, samples)
        used["overhead"].append(
            _commit(store, "overhead", {"timings": from_rows([*_timings(name)], "timings")}, name)
        )
        used["shift"].append(_commit_shift(store, name))
    aside = [
        {"stage": "ingest", "dataset": "bench", "sample_id": str(number), "line": number, "reason": EVIL}
        for number in range(3)
    ]
    anchors = [
        {**row, "sample_id": _name_anchor(row), "split": "anchor"} for row in make_samples("bench", ANCHORS)
    ]
    tables = {"samples": from_rows(anchors, "samples"), "quarantine": from_rows(aside, "quarantine")}
    used["ingest"].append(_commit(store, "ingest", tables, "nothing"))
    job = ReportJob(
        store=store.url,
        label="made up",
        rows=1,
        models=tuple(use.describe() for use in uses),
        judges=tuple(
            {"name": name, "kind": name, "model": None, "revision": None, "price": None} for name in judges
        ),
        title=None,
        used={stage: tuple(keys) for stage, keys in used.items()},
        settings=SETTINGS,
        utility_loss=0.05,
        over_refusal=0.2,
    )
    report = _report(job, store)
    return MadeUp(store, report, [*dict.fromkeys(key for keys in used.values() for key in keys), report.key])


def commit_answers(
    store: Store, *, models: Sequence[str], samples: int, strengths: Sequence[float], judges: Sequence[str]
) -> dict[str, list[str]]:
    """Commit samples, answers and verdicts; the keys by stage."""
    used: dict[str, list[str]] = {
        stage: [] for stage in ("pair", "ingest", "embed", "shift", "generate", "overhead", "judge")
    }

    def keep(stage: str, kind: str, rows: list[dict[str, Any]], name: Any, **more: Any) -> None:
        used[stage].append(_commit(store, stage, {kind: from_rows(rows, kind)}, name, **more))

    for dataset in SETS:
        keep("ingest", "samples", [*make_samples(dataset, samples)], dataset)
    for arm, dataset in product(list_arms(models, strengths), SETS):
        answers = [*make_answers(arm, dataset, samples)]
        keep("generate", "responses", answers, [arm, dataset], content=_describe(arm))
        for judge in judges:
            rows = [judge_answer(judge, row) for row in answers]
            keep("judge", "judgements", rows, [judge, arm, dataset])
    return used


def _use(name: str) -> ModelUse:
    revision = f"sha256:{digest(name)}"
    return ModelUse(
        identity=ModelIdentity(id=name, revision=revision, model_type="llava", folder=Path("nowhere")),
        label=name,
        dtype="float32",
        device="cpu",
        attn_implementation="sdpa",
        system=None,
        image_backend="pillow 13.0.0",
    )


def _describe(arm: Arm) -> dict[str, Any]:
    return {
        "name": arm.model,
        "condition": arm.condition,
        "intervention_name": arm.intervention,
        "intervention": {"alpha": arm.alpha} if arm.intervention else None,
    }


def _commit_states(store: Store, model: str, samples: int) -> Iterator[str]:
    generator = np.random.default_rng(0)
    steered = (("query", "", None, 0.0), ("image", "", None, 3.0), ("image", "CMRM dataset", 1.0, 0.5))
    meaningless = (("query", "", None, 0.0), ("blank", "", None, 2.0))
    anchors = [_name_anchor(row) for row in make_samples("bench", ANCHORS)]
    for dataset, split, groups in (
        ("vlsafe", "target", steered),
        ("bench", "target", steered),
        ("bench", "anchor", meaningless),
    ):
        ids = [f"{dataset[0]}{number}" for number in range(samples)] if split == "target" else anchors
        base = generator.normal(size=(len(ids), len(BLOCKS), 16))
        for condition, name, alpha, away in groups:
            states = (base + away + generator.normal(size=base.shape) * 0.2).astype(np.float16)
            rows = hidden_states_table(
                model=model,
                dataset=dataset,
                sample_ids=ids,
                condition=condition,
                blocks=BLOCKS,
                vectors=states,
                intervention=name,
                alpha=alpha,
            )
            yield _commit(
                store,
                "embed",
                {"hidden_states": rows},
                [dataset, split, condition, name, model],
                content={**_describe(Arm(model, condition, name, alpha)), "position": "last"},
                provenance={"dataset": dataset, "split": split},
                partitions={"model": model, "condition": condition},
            )


def _name_anchor(row: Mapping[str, Any]) -> str:
    """Anchors have ids of their own; the first is hostile, as its question is."""
    return f"anchor {row['sample_id']}{EVIL if row['question'].startswith(EVIL) else ''}"


def _timings(model: str) -> Iterator[dict[str, Any]]:
    chance = random.Random(0)
    for dataset in ("vlsafe", "bench"):
        for batch in range(6):
            for name, slower in (("", 1.0), ("CMRM dataset", 1.01), ("CMRM sample", 1.7)):
                yield {
                    "model": model,
                    "dataset": dataset,
                    "intervention": name,
                    "alpha": 1.0 if name else None,
                    "batch": batch,
                    "repeat": 0,
                    "samples": 4,
                    "tokens": 100 + batch,
                    "seconds": slower * chance.uniform(0.9, 1.1),
                    "device": "cpu",
                }


def _commit_shift(store: Store, model: str) -> str:
    key = digest(["shift", model])
    store.commit(
        "shift",
        key,
        {f"shifts/{key}.safetensors": b"made up"},
        provenance={"count": 120, "model": model, "image": "blank", "method": "mean"},
    )
    return key


def _commit(
    store: Store,
    stage: str,
    tables: Mapping[str, Any],
    name: Any,
    *,
    content: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    partitions: Mapping[str, str] | None = None,
) -> str:
    key = digest([stage, name, *tables])
    files = {
        table_path(kind, key, **(partitions or {} if kind == "hidden_states" else {})): to_parquet(rows, kind)
        for kind, rows in tables.items()
    }
    store.commit(stage, key, files, content=content, provenance=provenance)
    return key
