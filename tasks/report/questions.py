"""How harmful the questions of a data set are without their images, by judges of the questions alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cmrm.statistics.rates import Rate
from storage.records.manifest import Manifest
from storage.shards.rows import iterate_all
from storage.store import Store
from tasks.report.outcomes import SampleInfo
from tasks.report.reasoning import TEXTS


@dataclass(frozen=True, kw_only=True)
class QuestionRate:
    """How many of a data set's harmful, or of its harmless, questions one judge calls harmful by their words alone.

    `harmful` is the data set's own label, of question and image together. Verdicts that could not be read are apart.
    """

    dataset: str
    judge: str
    harmful: bool
    successes: int
    n: int
    parse_errors: int

    @property
    def rate(self) -> Rate:
        """The rate, with its interval."""
        return Rate(successes=self.successes, n=self.n)

    def flatten(self) -> dict[str, Any]:
        """As one record, with the rate and its interval."""
        low, high = self.rate.interval or (None, None)
        return {**asdict(self), "rate": self.rate.value, "low": low, "high": high}


def rate_questions(
    store: Store, texts: Sequence[Manifest], samples: Sequence[SampleInfo]
) -> list[QuestionRate]:
    """Rate the questions, by judge, data set and label, in order; `texts` are the verdicts on traces and questions."""
    harmful = {(one.dataset, one.sample_id): one.harmful for one in samples}
    counts: dict[tuple[str, str, bool], Counter[str]] = {}
    for row in iterate_all(store, texts, TEXTS, ("subject", "judge", "dataset", "sample_id", "verdict")):
        if row["subject"] == "question":
            group = row["judge"], row["dataset"], harmful[row["dataset"], row["sample_id"]]
            counts.setdefault(group, Counter())[row["verdict"]] += 1
    judges = dict.fromkeys(judge for judge, _, _ in counts)
    datasets = dict.fromkeys(dataset for _, dataset, _ in counts)
    return [
        QuestionRate(
            dataset=dataset,
            judge=judge,
            harmful=label,
            successes=found["unsafe"],
            n=found["unsafe"] + found["safe"],
            parse_errors=found["parse_error"],
        )
        for judge in judges
        for dataset in datasets
        for label in (True, False)
        if (found := counts.get((judge, dataset, label)))
    ]
