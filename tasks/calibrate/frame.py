"""The answers of a finished run that a judge can be held against people on: those to harmful questions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cmrm.errors import UserError
from storage.records.hashing import digest
from storage.records.manifest import Manifest
from storage.shards.rows import iterate_all, need_manifest
from storage.store import Store
from tasks.compare.finished_runs import find_report
from tasks.core.stage_name import ANSWERS, StageName
from tasks.report.outcomes import Arm
from tasks.report.table import sort_arms

# The stages whose results are read.
READ = (StageName.INGEST, *ANSWERS, StageName.JUDGE)
SIDES = ("unsafe", "safe")
_ARM = ("model", "condition", "intervention", "alpha")
_JUDGED = (*_ARM, "judge", "dataset", "sample_id", "answer_digest", "verdict")


@dataclass(kw_only=True)
class JudgedAnswer:
    """One answer to a harmful question, and what each judge that read it called it: unsafe or safe."""

    arm: Arm
    dataset: str
    sample_id: str
    digest: str
    verdicts: dict[str, str] = field(default_factory=dict)

    @property
    def question(self) -> tuple[str, str]:
        """The sample that it answers: data set and id."""
        return self.dataset, self.sample_id


@dataclass(frozen=True, kw_only=True)
class Frame:
    """All answers of a run that may be labelled, sorted, with its judges of safety and its arms in report order.

    `salt` is a digest that nobody has who has no store: ids of answers are made with it.
    """

    run_id: str
    salt: str
    judges: tuple[str, ...]
    arms: tuple[Arm, ...]
    answers: Sequence[JudgedAnswer]
    report: Manifest


def read_frame(store: Store, record: Mapping[str, Any]) -> Frame:
    """Read the frame of a finished run, given its record.

    Raises `UserError` if the run is not whole, or if no judge called an answer of it unsafe or safe.
    """
    report = find_report(store, record, stages=READ)
    used: Mapping[str, Sequence[str]] = report.content["used"]
    made = {stage: [need_manifest(store, stage, key) for key in used.get(stage, ())] for stage in READ}
    samples = iterate_all(
        store, made[StageName.INGEST], "samples", ["dataset", "sample_id", "split", "harmful"]
    )
    harmful = {
        (row["dataset"], row["sample_id"]) for row in samples if row["harmful"] and row["split"] == "target"
    }
    verdicts = iterate_all(store, made[StageName.JUDGE], "judgements", _JUDGED)
    answers, judges = _collect(
        row for row in verdicts if row["verdict"] in SIDES and (row["dataset"], row["sample_id"]) in harmful
    )
    run_id = str(record["run_id"])
    if not judges:
        raise UserError(
            f"run {run_id}: no judge called an answer to a harmful question unsafe or safe, so there is nothing to "
            "label; add such a judge with cmrm judge (cmrm judges lists them)"
        )
    arms = sort_arms(dict.fromkeys(one.arm for one in answers), list(report.content["settings"]))
    places = {arm: place for place, arm in enumerate(arms)}
    return Frame(
        run_id=run_id,
        salt=digest(sorted(key for stage in ANSWERS for key in used.get(stage, ()))),
        judges=tuple(_sort_judges(judges, report)),
        arms=tuple(arms),
        answers=sorted(answers, key=lambda one: (places[one.arm], one.question)),
        report=report,
    )


def _collect(rows: Iterable[Mapping[str, Any]]) -> tuple[list[JudgedAnswer], list[str]]:
    found: dict[tuple[Arm, str, str], JudgedAnswer] = {}
    arms: dict[Arm, Arm] = {}
    judges: dict[str, None] = {}
    for row in rows:
        arm = Arm(*(row[name] for name in _ARM))
        arm = arms.setdefault(arm, arm)
        one = found.setdefault(
            (arm, row["dataset"], row["sample_id"]),
            JudgedAnswer(
                arm=arm, dataset=row["dataset"], sample_id=row["sample_id"], digest=row["answer_digest"]
            ),
        )
        one.verdicts[row["judge"]] = row["verdict"]
        judges[row["judge"]] = None
    return list(found.values()), list(judges)


def _sort_judges(judges: Sequence[str], report: Manifest) -> list[str]:
    """Sort by the order of the run's spec, whose first judge the headline is about."""
    order = [str(judge.get("name")) for judge in report.content.get("judges", ())]
    return sorted(judges, key=lambda name: order.index(name) if name in order else len(order))
