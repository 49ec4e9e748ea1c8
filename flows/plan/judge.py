"""Plan of judging and reporting: which judges run on which answers, on which devices, and the report job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from cmrm.errors import UserError
from flows.spec.spec import Spec
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.core.stage_name import StageName
from tasks.imported.survey import SurveyedAnswers
from tasks.judge.loaded import JudgeUse, check_judge, resolve_judge
from tasks.judge.stage import JudgeJob, VerdictJob, plan_judging
from tasks.judge.texts import plan_questions, plan_traces
from tasks.report.stage import ReportJob
from tasks.shards.answers import AnswerShard

# Stages that few runs have, and that reports of the others do not name.
LATER_STAGES = frozenset(
    (
        StageName.DIRECTION,
        StageName.PROBE,
        StageName.CAPTION,
        StageName.SHIFT_PARTS,
        StageName.JUDGE_TEXTS,
        StageName.IMPORT_ANSWERS,
    )
)

Judged = Sequence[tuple[JudgeJob, Manifest]]


@dataclass(frozen=True, kw_only=True)
class JudgePlan:
    """Plan to judge answers and report; `models` are the judged models, as run records describe them.

    `backbones` are the text-only models beside them, described alike, and `imported` the arms that other systems
    answered, as `SurveyedAnswers.describe` returns them.
    """

    spec: Spec
    judges: tuple[JudgeUse, ...]
    models: tuple[Mapping[str, Any], ...]
    store: Store
    backbones: tuple[Mapping[str, Any], ...] = ()
    imported: tuple[Mapping[str, Any], ...] = ()

    def with_imported(self, surveyed: Sequence[SurveyedAnswers]) -> JudgePlan:
        """The plan with more arms that other systems answered."""
        return replace(self, imported=(*self.imported, *(one.describe() for one in surveyed)))

    def background_jobs(self, answers: AnswerShard) -> list[JudgeJob]:
        """Jobs of a shard of answers for judges without a model, which run while the next shard is generated."""
        judges = [judge for judge in self.judges if judge.place == "processor"]
        return plan_judging(self.store, answers, judges)

    def jobs_on_devices(self, answered: Sequence[AnswerShard]) -> list[JudgeJob]:
        """Jobs of judges with a model: all answers for one judge, then for the next, so that each is loaded once."""
        once = {answers.responses.key: answers for answers in answered}
        return [
            job
            for judge in self.judges
            if judge.place == "devices"
            for answers in once.values()
            for job in plan_judging(self.store, answers, [judge])
        ]

    def text_jobs(
        self,
        answered: Sequence[AnswerShard],
        ingested: Sequence[Manifest],
        *,
        place: Literal["processor", "devices"],
    ) -> list[VerdictJob]:
        """Jobs of traces and of questions, for the judges that run there; the last judge of answers is the first here.

        So it need not be loaded again.
        """
        once = {answers.responses.key: answers for answers in answered}
        own = [made for made in ingested if made.content["dataset"] in self.spec.judged()]
        return [
            job
            for judge in reversed(self.judges)
            if judge.place == place
            for job in (
                *(job for answers in once.values() for job in plan_traces(self.store, answers, [judge])),
                *plan_questions(self.store, own, [judge], shard_size=self.spec.shard_size),
            )
        ]

    def sort(self, judged: Judged, answered: Sequence[AnswerShard]) -> list[Manifest]:
        """Sort verdicts by the order of the answers, then by the order of the spec's judges."""
        # Tables keep this order of columns, and the headline is about the first judge.
        answers = {
            key: index for index, key in enumerate(dict.fromkeys(one.responses.key for one in answered))
        }
        judges = {judge.name: index for index, judge in enumerate(self.judges)}
        ordered = sorted(judged, key=lambda one: (answers[one[0].responses], judges[one[0].judge.name]))
        return [made for _, made in ordered]

    def report_jobs(self, used: Mapping[StageName, Sequence[Manifest]]) -> list[ReportJob]:
        """Make the report job of a run; `used` holds the manifests of each stage."""
        return [
            ReportJob(
                store=self.store.url,
                label=self.spec.title or ", ".join(model["name"] for model in self.models),
                rows=1,
                models=self.models,
                judges=tuple(judge.describe() for judge in self.judges),
                title=self.spec.title,
                used={
                    stage: tuple(made.key for made in manifests)
                    for stage, manifests in used.items()
                    # Reports without such a defence or captions keep the keys that they had before these stages.
                    if manifests or stage not in LATER_STAGES
                },
                settings={one.name: one.describe() for one in self.spec.all_interventions()},
                utility_loss=self.spec.choice.utility_loss,
                over_refusal=self.spec.choice.over_refusal,
                passes={one.name: one.count_passes() for one in self.spec.all_interventions()},
                imported=self.imported,
                backbones=self.backbones,
            )
        ]


def resolve_judges(judges: Sequence[JudgeUse]) -> tuple[JudgeUse, ...]:
    """Pin the revisions of judges' models; raises `UserError` if one cannot be resolved, before any model work."""
    return tuple(map(resolve_judge, judges))


def check_judges(judges: Sequence[JudgeUse], has_work: Callable[[JudgeUse], bool]) -> None:
    """Raise `UserError` for a judge with missing requirements and work left: stored verdicts need no API key."""
    for judge in judges:
        try:
            check_judge(judge)
        except UserError:
            if has_work(judge):
                raise
