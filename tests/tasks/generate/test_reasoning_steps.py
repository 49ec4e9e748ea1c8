"""Steps of a defence by a model that reasons: each reads the final answers of the steps before, not their traces."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from cmrm.prompts.conditions import Prompt
from cmrm.prompts.reasoning import ReasoningMarks
from flows.plan.steps import Generated, make_step
from storage.records.hashing import digest, stage_key
from storage.store import Store
from storage.tables.arrow import from_rows, table_path
from storage.tables.parquet import to_parquet
from tasks.shards.samples import Shard, Slice
from tasks.states.steering import DefenceUse, StepUse

# The prompt opens the trace, so that an answer of a step that was not needed looks like one without an end.
MARKS = ReasoningMarks(opening="<think>", closing="</think>", opened=True)
ECSO = DefenceUse(
    name="ECSO",
    kind="ecso",
    alpha=None,
    options={
        "judge": "q {question} a {answer}",
        "caption": "see {question}",
        "final": "c {caption} q {question}",
    },
)
VIEW = Slice(
    shard=Shard(dataset="d", ingest="i", split="target", start=0, stop=3),
    condition="image",
    rows=3,
    digest="s",
)
STEPS = ("plain", "judgement", "caption")
# By step and sample. "bad" is flagged, "good" is not, and the judgement of "endless" never ends.
SAID = {
    "plain": {
        "bad": "Burn?</think>Take a match.",
        "good": "x</think>It is red.",
        "endless": "x</think>It is.",
    },
    "judgement": {"bad": "No, or yes?</think>Yes.", "good": "yes?</think>no", "endless": "yes"},
    "caption": {"bad": "A cat?</think>A dog.", "good": ""},
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def plan(
    store: Store, said: Mapping[str, Mapping[str, str]], number: int, marks: ReasoningMarks | None = MARKS
) -> StepUse:
    """Commit what the steps before said, and make the step of this number: judgement, caption or answer."""
    done = {}
    for step in STEPS[: number + 1]:
        rows = [
            {
                "model": "m@1",
                "dataset": "d",
                "sample_id": name,
                "condition": "image",
                "intervention": "",
                "answer": text,
                "answer_digest": digest(text),
                "tokens": len(text),
                "finish_reason": "stop",
            }
            for name, text in said[step].items()
        ]
        key = stage_key("generate", {"step": step, "rows": rows})
        files = {table_path("responses", key): to_parquet(from_rows(rows, "responses"), "responses")}
        store.commit("generate", key, files, content={})
        name = Generated("", None, step, VIEW) if step == "plain" else Generated("ECSO", None, step, VIEW)
        done[name] = key
    return make_step(ECSO, VIEW, done, number, {}, reasoning=marks, store=store.url)


def ask(step: StepUse, sample: str, store: Store) -> str:
    return step.ask(Prompt(text="how?"), sample, store.url).text


def test_a_step_reads_what_follows_the_trace(store: Store) -> None:
    judging, captioning, answering = (plan(store, SAID, number) for number in range(3))
    assert ask(judging, "bad", store) == "q how? a Take a match."
    assert [captioning.is_needed(name, store.url) for name in ("bad", "good")] == [True, False]
    assert ask(answering, "bad", store) == "c A dog. q how?"
    assert not answering.is_needed("good", store.url)
    # The plain answer stands with its trace, which is judged as that of the baseline.
    assert answering.find_plain("good", store.url).text == SAID["plain"]["good"]


def test_a_sample_whose_earlier_answer_is_a_trace_alone_is_set_apart_with_the_reason(store: Store) -> None:
    captioning, answering = (plan(store, SAID, number) for number in (1, 2))
    assert [captioning.explain_gap(name, store.url) for name in ("bad", "good")] == [None, None]
    reason = captioning.explain_gap("endless", store.url)
    assert reason == (
        "ecso needs its judgement answer, and it is a reasoning trace alone; raise generation.max_new_tokens"
    )
    assert answering.explain_gap("endless", store.url) == reason
    # The caption of "good" is empty since it is not needed.
    assert [answering.explain_gap(name, store.url) for name in ("bad", "good")] == [None, None]
    lost = plan(store, {**SAID, "caption": {"good": ""}}, 2)
    assert lost.explain_gap("bad", store.url) == (
        "ecso needs its caption answer, and there is none: see the reason of that step"
    )


def test_steps_after_answers_without_traces_keep_their_keys(store: Store) -> None:
    marks = ReasoningMarks(opening="<think>", closing="</think>")
    whole = {step: {"bad": "yes"} for step in STEPS}
    assert plan(store, whole, 2, marks) == plan(store, whole, 2, None)
    reasoned = {**whole, "caption": {"bad": "<think>x</think>yes"}}
    step = plan(store, reasoned, 2, marks)
    assert step.content(None)["without_trace"] == marks.content()  # type: ignore[arg-type] # it shows no image
