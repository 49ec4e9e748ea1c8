"""The part of a plan that comes after the answers: who judges them, where, and the report on it all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cmrm.errors import UserError
from flows.spec import Spec
from storage.manifest import Manifest
from storage.store import Store
from tasks.judge import Answers, JudgeJob, plan_judging
from tasks.judges import JudgeUse, check_judge, resolve_judge
from tasks.report import ReportJob

Judged = Sequence[tuple[JudgeJob, Manifest]]


@dataclass(frozen=True, kw_only=True)
class JudgePlan:
    """Verdicts on answers, and a report; `models` are those that answered, as records describe them."""

    spec: Spec
    judges: tuple[JudgeUse, ...]
    models: tuple[Mapping[str, str], ...]
    store: str

    def jobs_beside(self, answers: Answers) -> list[JudgeJob]:
        """A shard of answers before every judge that holds no model: it can be judged while the next is answered."""
        judges = [judge for judge in self.judges if judge.place == "processor"]
        return plan_judging(Store.open(self.store), answers, judges)

    def jobs_on_devices(self, answered: Sequence[Answers]) -> list[JudgeJob]:
        """All answers before one judge that holds a model, then before the next, so that each is loaded once."""
        store = Store.open(self.store)
        once = {answers.responses.key: answers for answers in answered}
        return [
            job
            for judge in self.judges
            if judge.place == "devices"
            for answers in once.values()
            for job in plan_judging(store, answers, [judge])
        ]

    def sort(self, judged: Judged, answered: Sequence[Answers]) -> list[Manifest]:
        """The verdicts in the order of the answers, and on each in the order of the spec's judges."""
        # Tables show their columns as they come, and the first judge's are the headline's.
        answers = {
            key: place for place, key in enumerate(dict.fromkeys(one.responses.key for one in answered))
        }
        judges = {judge.name: place for place, judge in enumerate(self.judges)}
        ordered = sorted(judged, key=lambda one: (answers[one[0].responses], judges[one[0].judge.name]))
        return [made for _, made in ordered]

    def report_jobs(self, used: Mapping[str, Sequence[Manifest]]) -> list[ReportJob]:
        """One report over all that the run made; `used` holds the manifests of each stage."""
        return [
            ReportJob(
                store=self.store,
                label=self.spec.title or ", ".join(model["name"] for model in self.models),
                rows=1,
                models=self.models,
                judges=tuple(judge.describe() for judge in self.judges),
                title=self.spec.title,
                used={stage: tuple(made.key for made in manifests) for stage, manifests in used.items()},
                settings={one.name: one.describe() for one in self.spec.all_interventions()},
                utility_loss=self.spec.choice.utility_loss,
                over_refusal=self.spec.choice.over_refusal,
            )
        ]


def resolve_judges(judges: Sequence[JudgeUse]) -> tuple[JudgeUse, ...]:
    """Pin the revisions of judges' models; `UserError` when one cannot be, before any model work."""
    return tuple(map(resolve_judge, judges))


def check_judges(judges: Sequence[JudgeUse], has_work: Callable[[JudgeUse], bool]) -> None:
    """Raise `UserError` for a judge that lacks what it needs and has work left: verdicts that are there need no key."""
    for judge in judges:
        try:
            check_judge(judge)
        except UserError:
            if has_work(judge):
                raise
