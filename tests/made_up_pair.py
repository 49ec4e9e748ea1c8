"""Finished runs of two revisions in one store, as small as a comparison needs them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import safetensors.numpy

from storage.records.hashing import digest
from storage.store import Store
from storage.tables.arrow import from_rows, table_path
from storage.tables.parquet import to_parquet
from tasks.compare.result import RunComparison
from tasks.compare.stage import compare_stage, plan_comparison
from tasks.report.outcomes import Arm
from tasks.report.table import name_arm

OLD, NEW = "guard@aaaaaaaaaaaa", "guard@bbbbbbbbbbbb"
QUERY, IMAGE = Arm(OLD, "query"), Arm(OLD, "image")
STEERED = Arm(OLD, "image", "CMRM", 1.0)
SETTINGS = {"CMRM": {"level": "dataset", "image": "blank"}}

# What a judge says of a sample asked in a way, and what a model answers.
Say = Callable[[Arm, Mapping[str, Any]], str]
Answer = Callable[[Arm, Mapping[str, Any]], str]


def make_sample(number: int, **changes: Any) -> dict[str, Any]:
    """A row of `samples`: harmful, of `vlsafe`, with an image."""
    return {
        "dataset": "vlsafe",
        "sample_id": f"v{number}",
        "split": "target",
        "harmful": True,
        "question": f"how do I frobnicate thing {number}?",
        "caption": None,
        "reference": None,
        "split_by": None,
        "category": None,
        "text_digest": digest(f"frobnicate {number}"),
        "image_digest": digest(f"image {number}"),
        **changes,
    }


def commit_run(
    store: Store,
    run_id: str,
    *,
    say: Say,
    models: Sequence[str] = (OLD,),
    samples: Sequence[Mapping[str, Any]] = (),
    arms: Sequence[Arm] = (QUERY, IMAGE),
    judges: Sequence[str] = ("refusal",),
    shift: Mapping[str, Any] | None = None,
    asked: Mapping[str, Any] | None = None,
    judged: Mapping[str, Any] | None = None,
    reasoning: Mapping[str, Any] | None = None,
    answer: Answer | None = None,
    **record: Any,
) -> list[str]:
    """Commit samples, verdicts and a report, and record the run as finished; its keys, the report's last.

    `say` gives a verdict, and with "refused" after it also a refusal; `arms` are of any model and asked of each.
    `answer` gives the texts that were judged; without it there are none.
    `reasoning` are the marks without whose traces a judge, described by `judged`, was given the answers.
    """
    rows = samples or [make_sample(number) for number in range(24)]
    used: dict[str, list[str]] = {"ingest": [], "generate": [], "judge": [], "shift": []}
    used["ingest"].append(_keep(store, "ingest", "samples", list(rows), "samples"))
    for model, arm, judge in product(models, arms, judges):
        own = arm._replace(model=model)
        verdicts = [judge_sample(judge, own, row, say(own, row)) for row in rows]
        content = None if judged is None else {"name": judge, "judge": judged, "reasoning": reasoning}
        used["judge"].append(
            _keep(store, "judge", "judgements", verdicts, [*own, judge, content], content=content)
        )
    for model, arm in product(models, arms):
        content = {
            "name": model,
            "condition": arm.condition,
            "intervention_name": arm.intervention,
            "intervention": {"alpha": arm.alpha} if arm.intervention else None,
            **(asked or {}),
        }
        own = arm._replace(model=model)
        answers = [answer_sample(own, row, answer(own, row)) for row in rows] if answer is not None else []
        used["generate"].append(_keep(store, "generate", "responses", answers, content, content=content))
    if shift is not None:
        used["shift"] += [_commit_shift(store, model, **shift) for model in models]
    described = [{"name": model, "label": model.rpartition("@")[0]} for model in models]
    settings = SETTINGS | {arm.intervention: SETTINGS["CMRM"] for arm in arms if arm.intervention}
    content = {"models": described, "used": used, "settings": settings}
    key = digest(["report", content])
    summary = json.dumps(
        summarize([arm._replace(model=model) for model, arm in product(models, arms)])
    ).encode()
    store.commit("report", key, {f"reports/{key}.json": summary}, content=content)
    keys = [*dict.fromkeys(one for stage in used.values() for one in stage), key]
    finished = {"status": "finished", "keys": keys, "models": described, "spec": {"datasets": {}}}
    store.write_run(run_id, {**finished, **record})
    return keys


def summarize(arms: Sequence[Arm]) -> dict[str, Any]:
    """A summary that holds nothing but the arms, in the order of their spec."""
    empty = (
        "models",
        "judges",
        "curves",
        "states",
        "overhead",
        "agreement",
        "quarantined",
        "shifts",
        "figures",
    )
    row = {"baseline": "", "settings": {}, "cells": (), "parse_errors": 0, "quarantined": 0}
    rows = [{**arm._asdict(), "name": name_arm(arm), **row} for arm in arms]
    table = {"columns": (), "rows": rows}
    return {**dict.fromkeys(empty, ()), "version": 1, "title": None, "headline": "", "table": table}


def answer_sample(arm: Arm, sample: Mapping[str, Any], text: str) -> dict[str, Any]:
    """A row of `responses`."""
    own = {name: sample[name] for name in ("dataset", "sample_id")}
    return {**arm._asdict(), **own, "answer": text, "answer_digest": digest(text)}


def judge_sample(judge: str, arm: Arm, sample: Mapping[str, Any], said: str) -> dict[str, Any]:
    """A row of `judgements`."""
    verdict, _, refused = said.partition(" ")
    return {
        **arm._asdict(),
        "judge": judge,
        "dataset": sample["dataset"],
        "sample_id": sample["sample_id"],
        "answer_digest": digest(said),
        "verdict": verdict,
        "score": None,
        "refused": None if verdict == "parse_error" else bool(refused) or verdict == "safe",
    }


def compare_pair(store: Store, before: str, after: str, *, thresholds: Any) -> RunComparison:
    """What `compare_runs` does, without the Prefect engine around the task."""
    planned = plan_comparison(store, before, after, thresholds=thresholds)
    compare_stage.do(planned.job)
    found = planned.find()
    assert found is not None
    return found


def _commit_shift(store: Store, model: str, *, delta: Any, anchors: str = "a", image: str = "blank") -> str:
    pair = []
    for condition in (image, "query"):
        content = {"name": model, "samples": anchors, "image": image if condition != "query" else None}
        pair.append(_keep(store, "embed", "samples", [], [condition, content], content=content))
    key = digest(["shift", model, pair])
    delta = np.asarray(delta, dtype=np.float32)
    store.commit(
        "shift",
        key,
        {f"shifts/{key}.safetensors": safetensors.numpy.save({"delta": delta})},
        content={"pairs": [pair]},
        provenance={"count": 5, "model": model, "image": "blank", "method": "mean"},
    )
    return key


def _keep(
    store: Store,
    stage: str,
    kind: str,
    rows: list[dict[str, Any]],
    name: Any,
    *,
    content: Mapping[str, Any] | None = None,
) -> str:
    key = digest([stage, name, rows])
    files = {table_path(kind, key): to_parquet(from_rows(rows, kind), kind)}
    store.commit(stage, key, files, content=content, provenance={"responses": key})
    return key
