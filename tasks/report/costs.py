"""Overhead of interventions in seconds, from interleaved timings of the same batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from cmrm.statistics.ratios import measure_cost

Seconds = dict[tuple[str, int], list[float]]


def describe_costs(timings: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Measure overhead per model, data set ('' for all together) and arm, from rows of `timings`.

    Seconds are per sample, averaged over the repeats of a batch; `cost` is their mean and its ratio to the baseline's
    on the same batches.
    """
    seconds: dict[tuple[str, str], dict[tuple[str, float | None], Seconds]] = defaultdict(dict)
    tokens: dict[tuple[str, str, str, float | None], list[float]] = defaultdict(list)
    devices: dict[str, str] = {}
    for row in timings:
        arm = row["intervention"], row["alpha"]
        devices[row["model"]] = row["device"]
        for dataset in (row["dataset"], ""):
            batches = seconds[row["model"], dataset].setdefault(arm, defaultdict(list))
            batches[row["dataset"], row["batch"]].append(row["seconds"] / row["samples"])
            tokens[row["model"], dataset, *arm].append(row["tokens"] / row["samples"])
    return [
        {
            "model": model,
            "dataset": dataset,
            "intervention": arm[0],
            "alpha": arm[1],
            "device": devices[model],
            "tokens": sum(counts := tokens[model, dataset, *arm]) / len(counts),
            "cost": measure_cost(
                _average(batches), None if not arm[0] else _average(arms["", None])
            ).to_json(),
        }
        for (model, dataset), arms in seconds.items()
        for arm, batches in arms.items()
    ]


def _average(batches: Seconds) -> list[float]:
    """Seconds per sample of each batch, in a fixed order."""
    return [sum(batches[batch]) / len(batches[batch]) for batch in sorted(batches)]
