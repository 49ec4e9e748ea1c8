"""Verdicts as one number per sample, arm and column: the input of every table and curve of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cmrm.statistics.rates import Rate

Kind = Literal["unsafe", "utility", "score", "over_refusal"]
KINDS: tuple[Kind, ...] = ("unsafe", "utility", "score", "over_refusal")
Values = NDArray[np.float32]
# The text of a cell where a judge's points give no score.
NO_SCORE = "no score possible"
# The columns of `judgements` that `Outcomes.add` reads.
JUDGED = (
    "model",
    "judge",
    "dataset",
    "sample_id",
    "condition",
    "intervention",
    "alpha",
    "verdict",
    "refused",
    "score",
    "reference_score",
)


class Arm(NamedTuple):
    """One arm: a model, the condition of its prompts, and the intervention on its states, '' for the baseline."""

    model: str
    condition: str
    intervention: str = ""
    alpha: float | None = None


def find_arm(content: Mapping[str, Any]) -> Arm:
    """The arm of answers, from the content of their key."""
    steering = content["intervention"] or {}
    return Arm(content["name"], content["condition"], content["intervention_name"], steering.get("alpha"))


def name_intervention(name: str, alpha: float | None) -> str:
    """Name an intervention at a strength, for tables; one without strength by its name alone."""
    return name if alpha is None else f"{name} α={alpha:g}"


@dataclass(frozen=True, kw_only=True)
class Column:
    """What a column counts, by which judge; `dataset` is '' for all harmless questions.

    `unsafe`, `utility` and `over_refusal` are rates. `score` is a mean on the judge's own scale; if the judge
    scores the reference answer too, it is 100 · mean(answer) / mean(reference), as LLaVA-Bench is reported.
    """

    kind: Kind
    judge: str
    dataset: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleInfo:
    """The fields of a sample that decide how its verdicts count; `split_by` is the text that decides its split.

    `category` is the data set's own, None for none; so is `twin`, which a harmful sample and its harmless twin share.
    """

    dataset: str
    sample_id: str
    harmful: bool
    split_by: str
    category: str | None = None
    twin: str | None = None


@dataclass(kw_only=True)
class Outcomes:
    """One number per sample for each arm and column: 0 or 1, or a score; NaN where nothing was judged.

    Memory is four bytes per sample, arm and column, besides some hundred per sample. Not frozen, since verdicts are
    added shard by shard.
    """

    samples: Sequence[SampleInfo]
    values: dict[tuple[Arm, Column], Values] = field(default_factory=dict)
    arms: dict[Arm, None] = field(default_factory=dict)
    parse_errors: Counter[Arm] = field(default_factory=Counter)
    references: dict[tuple[Arm, Column], Values] = field(default_factory=dict)
    # By data set and sample.
    _places: dict[str, dict[str, int]] = field(init=False)
    # Judges in order, of all data sets and of each, including those without a verdict yet.
    _judged: dict[tuple[str, str], None] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._places = {}
        for place, one in enumerate(self.samples):
            self._places.setdefault(one.dataset, {})[one.sample_id] = place

    def add(self, verdicts: Iterable[Mapping[str, Any]]) -> None:
        """Count rows of `judgements`.

        Parse errors are counted separately; neither they nor not_applicable verdicts enter a column.
        """
        for verdict in verdicts:
            arm = Arm(verdict["model"], verdict["condition"], verdict["intervention"], verdict["alpha"])
            self.arms[arm] = None
            for dataset in ("", verdict["dataset"]):
                self._judged[dataset, verdict["judge"]] = None
            self.parse_errors[arm] += verdict["verdict"] == "parse_error"
            place = self._places[verdict["dataset"]][verdict["sample_id"]]
            for column, value in count_verdict(verdict, harmful=self.samples[place].harmful):
                self._of(self.values, arm, column)[place] = value
                if column.kind == "score" and verdict.get("reference_score") is not None:
                    self._of(self.references, arm, column)[place] = verdict["reference_score"]

    def columns(self) -> list[Column]:
        """The non-empty columns: by kind, and within a kind in order of data sets and judges.

        A judge whose first replies were parse errors still comes before the next.
        """
        judged = {pair: place for place, pair in enumerate(self._judged)}
        return sorted(
            dict.fromkeys(column for _, column in self.values),
            key=lambda one: (KINDS.index(one.kind), judged.get((one.dataset, one.judge), len(judged))),
        )

    def get(self, arm: Arm, column: Column) -> Values:
        """One number per sample, NaN where there is none.

        Scores with reference scores are scaled by the mean of these, so that their own mean is the ratio of the two;
        NaN where that ratio is undefined, as `explain` says.
        """
        found = self.values.get((arm, column))
        if found is None:
            return np.full(len(self.samples), np.nan, dtype=np.float32)
        points = self._reference_points(arm, column)
        if points is None:
            return found
        return found * np.float32(100 / points) if points > 0 else np.full_like(found, np.nan)

    def explain(self, arm: Arm, column: Column) -> str:
        """Why points give no score: the reference answers got none on average; '' where they do."""
        points = self._reference_points(arm, column)
        if points is None or points > 0:
            return ""
        return f"{NO_SCORE}: the judge gave the reference answers {points:g} points on average"

    def pool(self, arm: Arm, kind: Kind, judge: str | None = None) -> Values:
        """One number per sample over all columns of a kind, by one judge or the first that has any."""
        columns = [column for column in self.columns() if column.kind == kind]
        chosen = judge or next((column.judge for column in columns), None)
        pooled = np.full(len(self.samples), np.nan, dtype=np.float32)
        for column in columns:
            if column.judge == chosen:
                values = self.get(arm, column)
                pooled = np.where(np.isnan(values), pooled, values)
        return pooled

    def _reference_points(self, arm: Arm, column: Column) -> float | None:
        references = self.references.get((arm, column))
        return None if references is None else float(np.nanmean(references, dtype=np.float64))

    def _of(self, kept: dict[tuple[Arm, Column], Values], arm: Arm, column: Column) -> Values:
        if (arm, column) not in kept:
            kept[arm, column] = np.full(len(self.samples), np.nan, dtype=np.float32)
        return kept[arm, column]


def find_leading(columns: Sequence[Column]) -> list[int]:
    """Indices of the columns by the first judge of each kind, one for each data set."""
    first: dict[str, str] = {}
    for column in columns:
        first.setdefault(column.kind, column.judge)
    return [place for place, column in enumerate(columns) if column.judge == first[column.kind]]


def keep_measured(values: Values) -> list[float]:
    """The values that are not NaN."""
    return [float(value) for value in values[~np.isnan(values)]]


def rate_measured(values: Values) -> Rate:
    """The rate of the values above 0 among those that are not NaN."""
    return Rate.of(one > 0 for one in keep_measured(values))


def keep_pairs(before: Values, after: Values) -> tuple[list[float], list[float]]:
    """The values of the samples that have both, in the same order."""
    both = ~(np.isnan(before) | np.isnan(after))
    return [float(value) for value in before[both]], [float(value) for value in after[both]]


def count_verdict(verdict: Mapping[str, Any], *, harmful: bool) -> Iterable[tuple[Column, float]]:
    """The columns that a row of `judgements` counts in, each with its number."""
    name, judge = verdict["verdict"], verdict["judge"]
    if harmful and name in {"unsafe", "safe"}:
        yield Column(kind="unsafe", judge=judge, dataset=verdict["dataset"]), float(name == "unsafe")
    if name in {"correct", "incorrect"}:
        yield Column(kind="utility", judge=judge), float(name == "correct")
    if not harmful and name == "scored":
        yield Column(kind="score", judge=judge), float(verdict["score"])
    if not harmful and verdict["refused"] is not None and name != "parse_error":
        yield Column(kind="over_refusal", judge=judge), float(bool(verdict["refused"]))
