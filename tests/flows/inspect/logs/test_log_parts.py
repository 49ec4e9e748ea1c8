"""What few runs have in their logs: traces, verdicts on other texts, failed judges, and prompts that arms changed."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from inspect_ai import score
from inspect_ai.log import list_eval_logs, read_eval_log
from inspect_ai.scorer import includes

from cmrm.prompts.conditions import Prompt
from cmrm.prompts.reasoning import ReasoningMarks
from flows.cli import main
from flows.inspect.arm_uses import restore_use
from flows.inspect.log_prompts import PromptWriter
from flows.inspect.log_samples import make_sample
from flows.inspect.log_source import LogName, LogSource, read_run
from flows.spec.imported_arms import read_arms
from flows.spec.spec import check_spec
from storage.records.hashing import digest
from storage.records.manifest import Manifest
from storage.store import Store
from storage.tables.arrow import from_rows, table_path
from storage.tables.parquet import to_parquet
from tasks.report.outcomes import Arm
from tests.flows.shared_runs import judge_plainly

SPEC = {
    "model": {"id": "nowhere"},
    "datasets": {"mine": {"format": "jsonl", "path": "/nowhere.jsonl"}},
    "anchors": {"from": {"mine": 0.5}},
    "interventions": [
        {
            "kind": "ecso",
            "name": "ECSO",
            "judge": "{question} {answer}?",
            "caption": "see {question}",
            "final": "{caption}; {question}",
        }
    ],
}


def commit(store, stage, kind, rows, *, content=None):
    key = digest([stage, kind, rows])
    files = {table_path(kind, key): to_parquet(from_rows(rows, kind), kind)}
    return store.commit(stage, key, files, content=content or {})


def answer(text):
    arm = {"model": "m", "dataset": "mine", "sample_id": "1", "condition": "image", "intervention": "ECSO"}
    row = {**arm, "answer": text, "answer_digest": digest(text), "tokens": 1, "finish_reason": "stop"}
    return [row]


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "store")


def test_the_last_step_of_a_defence_asks_with_the_steps_before_as_the_store_has_them(store):
    steps = {"plain": "sure", "judgement": "Yes.", "caption": "a cat"}
    keys = {step: commit(store, "generate", "responses", answer(text)).key for step, text in steps.items()}
    steering = {"kind": "ecso", "alpha": None, "step": "answer", "earlier": keys}
    made = Manifest(
        stage="generate",
        key="0" * 64,
        schema_version=3,
        files=(),
        content={"intervention_name": "ECSO", "intervention": steering},
        created_at="",
    )
    spec = check_spec(SPEC, where="spec")
    use = restore_use(made, spec, store=store)
    assert use.is_needed("1", store.url)
    assert use.ask(Prompt(text="what?"), "1", store.url).text == "a cat; what?"
    plain = replace(made, content={"intervention_name": "", "intervention": None})
    assert restore_use(plain, spec, store=store) is None


def test_a_trace_is_reasoning_and_the_final_answer_is_the_completion(finished):
    source = read_run(Store.open(finished / "store"), "latest")
    asked = next(log for log in source.logs if log.name.dataset == "own").read(source.store)
    one = next(one for one in asked if one.answer is not None)
    marks = ReasoningMarks(opening="<think>", closing="</think>")
    prompts = PromptWriter(source.run.plan.spec, source.store, None)

    def write(text):
        given = replace(one, shard=replace(one.shard, reasoning=marks), answer={**one.answer, "answer": text})
        return make_sample(given, prompts, model="cmrm/m", verdicts=(), unjudged={"guard": "it broke"})

    made = write("<think>they want red</think>red")
    trace, final = made.messages[-1].content
    assert (trace.reasoning, final.text, made.output.completion) == ("they want red", "red", "red")
    assert write("<think>they want").output.completion == ""
    assert write("plainly red").messages[-1].content == "plainly red"
    assert made.scores["guard"].reason == "scoring_failed"
    assert made.scores["guard"].explanation == "it broke"


def test_verdicts_on_traces_and_on_questions_have_the_name_of_their_judge_and_of_the_text(store):
    common = {"judge": "guard", "dataset": "mine", "sample_id": "1", "verdict": "unsafe", "raw": "S1"}
    arm = {"model": "m", "condition": "image", "intervention": ""}
    traces, questions = (
        commit(store, "judge-texts", "text_judgements", [{**common, **more, "subject": subject}])
        for subject, more in (("trace", arm), ("question", {}))
    )
    log = LogSource(name=LogName(Arm("m", "image"), "mine"), shards=(), judged=(), texts=(traces, questions))
    rows = list(log.read_verdicts(store))
    assert [(row["judge"], row["verdict"]) for row in rows] == [
        ("guard_trace", "unsafe"),
        ("guard_question", "unsafe"),
    ]


def test_a_log_of_a_run_joins_a_run_as_an_arm_and_has_a_log_there(finished, exported, logs, tmp_path):
    store = shutil.copytree(finished / "store", tmp_path / "store")
    (tmp_path / "given.eval").write_bytes(next(exported.glob("*own-asked_*")).read_bytes())
    given = {"given": {"answers": "given.eval"}}
    judge_plainly(store, arms=read_arms(given, folder=tmp_path, where="--answers"))
    main(["export", "latest", "--to", "inspect", "--store", str(store), "-o", str(tmp_path / "logs")])
    found = [read_eval_log(info) for info in list_eval_logs(str(tmp_path / "logs"))]
    (log,) = [one for one in found if one.eval.model == "none/given"]
    assert len(found) == len(logs) + 1
    before = {one.id: one for one in logs["own", "asked"].samples}
    assert {one.id for one in log.samples} == before.keys()
    for one in log.samples:
        assert one.output.completion == before[one.id].output.completion
        assert (one.error is None) == (before[one.id].error is None)
        # What the other system was asked is not known; the sample is shown as the run asks it.
        assert one.metadata["question"] == before[one.id].metadata["question"]
    assert log.eval.metadata["imported"]["kind"] == "inspect"
    assert score(log, includes(), action="append", display="none").status == "success"
    assert log.eval.metadata.get("steering") is None
