"""Prepare the maps of final states for the report page: names, arms of answers, and samples that have none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from flows.report.answers_page import SampleKey
from storage.shards.rows import iterate_all, need_manifest
from storage.store import Store
from tasks.core.stage_name import StageName
from tasks.report.figures import name_group
from tasks.report.outcomes import Arm
from tasks.report.states import StateGroup

# What is shown of the question of a sample without answers.
MOST_LETTERS = 160
SAMPLE = ("dataset", "sample_id", "harmful", "category", "question")

Record = Mapping[str, Any]


def describe_maps(
    store: Store,
    maps: Sequence[Record],
    *,
    ingested: Sequence[str],
    shown: AbstractSet[SampleKey],
    arms: Sequence[Arm],
    names: Mapping[str, str],
) -> dict[str, Any] | None:
    """Encode maps for the page's script; None without maps.

    `maps` are as `StateMap.to_json` makes them, `ingested` the keys of the run's samples, `arms` those of the page's
    answers, and `names` maps models to displayed names. Of samples `shown` with answers on the page only the ids are
    written.
    """
    if not maps:
        return None
    drawn = [[(dataset, one) for dataset, ids in record["samples"] for one in ids] for record in maps]
    rows = {key: row for row, key in enumerate(dict.fromkeys(key for keys in drawn for key in keys))}
    samples: list[list[Any]] = [list(key) for key in rows]
    for one in iterate_all(
        store, [need_manifest(store, StageName.INGEST, key) for key in ingested], "samples", SAMPLE
    ):
        key = one["dataset"], one["sample_id"]
        if key in rows and key not in shown:
            samples[rows[key]] += [
                one["harmful"],
                one["category"] or "",
                one["question"][:MOST_LETTERS],
            ]
    numbers = {arm: number for number, arm in enumerate(arms)}
    return {
        "samples": samples,
        "maps": [
            {
                **{name: value for name, value in record.items() if name != "samples"},
                "model": names.get(record["model"], record["model"]),
                "groups": _describe_groups(record, numbers),
                "rows": [rows[key] for key in keys],
            }
            for record, keys in zip(maps, drawn, strict=True)
        ],
    }


def _describe_groups(record: Record, arms: Mapping[Arm, int]) -> list[dict[str, Any]]:
    groups = [StateGroup(**one) for one in record["groups"]]
    plain = [StateGroup(group.condition) if group.intervention else None for group in groups]
    return [
        {
            "name": name_group(group),
            "arm": arms.get(Arm(record["model"], *group)),
            "plain": groups.index(own) if own in groups else None,
        }
        for group, own in zip(groups, plain, strict=True)
    ]
