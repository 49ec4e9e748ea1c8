"""Plan of arms that other systems answered: which sample each answer is of, and the jobs that import them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence

from cmrm.errors import UserError
from cmrm.untrusted.printable import show
from flows.plan.states import Samples
from flows.spec.spec import Spec
from storage.store import Store
from tasks.imported.files import AnswersFile
from tasks.imported.stage import ImportJob, plan_imports
from tasks.imported.survey import SurveyedAnswers, list_ids, survey_answers
from tasks.shards.answers import AnswerShard

log = logging.getLogger("cmrm.flows")


def refuse_model_names(arms: Iterable[str], models: Collection[str]) -> None:
    """Raise `UserError` for an arm of another system that tables could not tell from a model of the run."""
    if shared := [name for name in arms if name in models]:
        raise UserError(f"arms: a model is named {show(shared[0])}, too; rename the arm.")


def survey_imported(
    files: Sequence[AnswersFile], spec: Spec, samples: Samples, store: Store
) -> list[SurveyedAnswers]:
    """Find the sample of each answer of some files, and warn of answers to none.

    `samples` are the ingested data sets by name. Raises `UserError` as `survey_answers` does.
    """
    if not files:
        return []
    ids = {
        name: list_ids(store, samples[name], captioned=spec.captions is not None) for name in spec.judged()
    }
    found = [survey_answers(file, ids, conditions=spec.conditions) for file in files]
    for one in found:
        if said := one.explain_unknown():
            log.warning("%s", said)
    return found


def import_jobs(
    store: Store, surveyed: Sequence[SurveyedAnswers], answered: Sequence[AnswerShard]
) -> list[ImportJob]:
    """Plan the import of every arm, a job for each shard of the plain answers of the run's first model."""
    first = next((one.responses.content["name"] for one in answered), None)
    plain = [
        one
        for one in answered
        if one.responses.content["name"] == first and one.responses.content["intervention"] is None
    ]
    return [job for one in surveyed for job in plan_imports(store, one, plain)]
