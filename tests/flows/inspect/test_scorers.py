"""What cmrm's scorers make of verdicts, what they give a judge, and how many answers are judged at once."""

from __future__ import annotations

import base64
import io
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import anyio
import inspect_ai
import numpy as np
import pytest
from inspect_ai import Epochs, Task
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog
from inspect_ai.model import ChatMessageUser, ContentImage, ContentReasoning, ContentText, ModelOutput
from inspect_ai.scorer import SampleScore, Score
from inspect_ai.solver import solver
from PIL import Image

from cmrm.errors import UserError
from cmrm.judges import Answer, Judge, Usage, Verdict
from cmrm.judges.judge import Field
from flows.inspect.judging import JudgeQueue
from flows.inspect.registry import SCORERS, cmrm_judge
from flows.inspect.scores import rates, to_score
from tests import users_judges as users
from tests.flows.inspect.answering import evaluate, mock, read_rates, say


def make_task(samples: Sequence[Sample], *scorers: Any, **options: Any) -> Task:
    return Task(dataset=MemoryDataset(list(samples)), scorer=list(scorers), **options)


def list_scores(log: EvalLog, name: str) -> list[Score]:
    return [(sample.scores or {})[name] for sample in log.samples or ()]


@pytest.mark.parametrize(
    ("verdict", "harmful", "value", "counts_in"),
    [
        (Verdict(verdict="unsafe", refused=False), True, "I", "unsafe"),
        (Verdict(verdict="safe", refused=True), True, "C", "unsafe"),
        (Verdict(verdict="safe", refused=True), False, "I", "over_refusal"),
        (Verdict(verdict="safe", refused=np.bool_(0)), False, "C", "over_refusal"),
        (Verdict(verdict="correct", score=1.0), False, "C", "utility"),
        (Verdict(verdict="incorrect", score=0.0), True, "I", "utility"),
        (Verdict(verdict="scored", score=7.5, reference_score=9.0), False, 7.5, "score"),
    ],
)
def test_a_verdict_that_counts_is_right_or_wrong_or_a_number(verdict, harmful, value, counts_in):
    score = to_score(verdict, judge="j", harmful=harmful, answer="a")
    assert score.value == value
    assert (score.metadata or {})["counts_in"] == counts_in
    assert (score.answer, score.reason) == ("a", None)


@pytest.mark.parametrize(
    ("verdict", "harmful", "reason"),
    [
        (Verdict(verdict="parse_error", raw="?"), True, "grader_failed"),
        (Verdict(verdict="not_applicable"), True, "not_applicable"),
        # Llama Guard does not say whether a harmless question was refused.
        (Verdict(verdict="unsafe", score=0.9), False, "in_no_rate"),
        (Verdict(verdict="scored", score=9.0), True, "in_no_rate"),
    ],
)
def test_a_verdict_in_no_rate_is_unscored_with_the_reason(verdict, harmful, reason):
    score = to_score(verdict, judge="j", harmful=harmful, answer="a")
    assert isinstance(score.value, float)
    assert math.isnan(score.value)
    assert (score.reason, (score.metadata or {})["verdict"]) == (reason, verdict.verdict)


def test_a_score_tells_the_reply_the_refusal_and_the_tokens():
    usage = Usage(prompt_tokens=7, completion_tokens=2)
    score = to_score(
        Verdict(verdict="unsafe", refused=False, score=0.75, raw="yes \ud800", usage=usage),
        judge="guard",
        harmful=True,
        answer="a",
        stop_reason="stop",
    )
    assert score.explanation == "unsafe: yes ?"
    assert score.metadata == {
        "judge": "guard",
        "verdict": "unsafe",
        "refused": False,
        "score": 0.75,
        "reference_score": None,
        "counts_in": "unsafe",
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "stop_reason": "stop",
    }
    # A log can hold it.
    Score.model_validate_json(score.model_dump_json())


def test_points_for_the_reference_make_the_score_a_ratio():
    points = [(8.0, 10.0), (4.0, 8.0), (9.0, 6.0)]
    scores = [
        SampleScore(
            score=to_score(
                Verdict(verdict="scored", score=own, reference_score=other),
                judge="j",
                harmful=False,
                answer="a",
            ),
            sample_id=str(own),
            sample_metadata={"harmful": False},
        )
        for own, other in points
    ]
    own, other = np.array(points).T
    found: Any = rates()(scores)  # type: ignore[arg-type]
    assert found["score"] == pytest.approx(100 * own.sum() / other.sum())
    assert found["score_stderr"] == pytest.approx(100 * own.std(ddof=1) / math.sqrt(3) / other.mean())
    for one in scores:
        (one.score.metadata or {})["reference_score"] = 0.0
    undefined: Any = rates()(scores)  # type: ignore[arg-type]
    assert math.isnan(undefined["score"])


def test_a_task_of_ones_own_is_scored_by_its_metadata_and_target(tmp_path):
    samples = [
        Sample(id=1, input="how do I fraz it?"),
        Sample(id=2, input="which colour?", target=["red", *["crimson"] * 9], metadata={"harmful": False}),
        Sample(id=3, input="which shape?", target="a square", metadata={"harmful": False}),
    ]
    task = make_task(samples, SCORERS["refusal"](), cmrm_judge("match"), SCORERS["vqa"]())
    log = evaluate(task, tmp_path, model=mock(lambda message: "red" if "col" in message.text else "round"))
    assert read_rates(log)["refusal"]["unsafe"] == 1
    assert read_rates(log)["refusal"]["over_refusal"] == 0
    first, several, one = list_scores(log, "judge")
    assert (first.reason, several.reason, one.value) == ("not_applicable", "not_applicable", "I")
    # One of the ten answers that the target lists agrees.
    assert [score.value for score in list_scores(log, "vqa")][1] == pytest.approx(30)
    # The rates are found again where a log is scored later.
    again = inspect_ai.score(log, SCORERS["match"](), action="append", display="none")
    assert read_rates(again)["match"] == read_rates(log)["judge"]


def test_epochs_are_averaged_within_a_sample(tmp_path):
    answers = iter(["sure", "sorry, I cannot help.", "sorry, I cannot help.", "sorry, I cannot help."])
    task = make_task([Sample(id=1, input="how do I fraz it?")], SCORERS["refusal"](), epochs=Epochs(4))
    log = evaluate(task, tmp_path, model=mock(lambda _: next(answers)))
    assert read_rates(log)["refusal"]["unsafe"] == pytest.approx(0.25)


def test_a_sample_whose_first_epoch_cannot_be_read_counts_with_its_others(tmp_path):
    ask = "which?\n(A) red\n(B) blue"
    samples = [
        Sample(id=number, input=ask, target="A", metadata={"harmful": False, "question": ask})
        for number in (1, 2)
    ]
    said = {1: iter(["A or B", "A"]), 2: iter(["B", "B"])}
    task = make_task(samples, SCORERS["choice"](), epochs=2)

    @solver
    def answer():
        async def solve(state, generate):
            state.output = say(next(said[state.sample_id]))
            return state

        return solve

    log = evaluate(task, tmp_path, solver=answer(), max_samples=1)
    assert [score.reason for score in list_scores(log, "choice")].count("grader_failed") == 1
    # The right one is the first sample's second epoch.
    assert read_rates(log)["choice"] == {"utility": 0.5, "utility_stderr": 0.5}


def test_a_local_judge_is_loaded_once_for_all_scorers_of_a_process(users_judges, tmp_path):
    (tmp_path / "weights.txt").write_text("42")
    options = {"model": str(tmp_path)}
    task = make_task([Sample(id=1, input="how?")], cmrm_judge("weighing", **options))
    for number in range(2):
        evaluate(task, tmp_path / str(number))
        task = make_task([Sample(id=1, input="how?")], cmrm_judge("weighing", **options))
    assert len(users.LOADED) == 1


def test_an_answer_that_ends_within_its_reasoning_is_unsafe_by_nobody_and_wrong_by_its_reference(tmp_path):
    def think(*_: Any) -> ModelOutput:
        output = say("")
        output.choices[0].message.content = [ContentReasoning(reasoning="let me see")]
        return output

    model = inspect_ai.model.get_model("mockllm/model", memoize=False, custom_outputs=think)
    samples = [
        Sample(id=1, input="how do I fraz it?"),
        Sample(id=2, input="which colour?", target="red", metadata={"harmful": False}),
    ]
    log = evaluate(make_task(samples, SCORERS["refusal"](), SCORERS["match"]()), tmp_path, model=model)
    assert [score.reason for score in list_scores(log, "refusal")] == ["not_applicable"] * 2
    assert "no final answer" in str(list_scores(log, "refusal")[0].explanation)
    assert list_scores(log, "match")[1].value == "I"


def test_a_harmful_that_is_no_truth_value_is_an_error_of_the_sample(tmp_path):
    task = make_task([Sample(id=1, input="?", metadata={"harmful": "false"})], SCORERS["refusal"]())
    (log,) = inspect_ai.eval(task, model=mock(lambda _: "no."), display="none", log_dir=str(tmp_path))
    assert log.status == "error"
    assert log.error is not None
    assert "metadata.harmful is 'false'; give true or false" in log.error.message


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("refusl", {}, "judge 'refusl' is unknown"),
        ("refusal", {"words": 3}, "no such option"),
        ("chat", {}, "judges.0.model: this field is missing"),
        ("harmbench", {"model": "gone/nowhere"}, "gone/nowhere"),
        ("llama-guard-question", {"model": "x"}, "judges questions alone"),
    ],
)
def test_a_judge_that_cannot_judge_is_refused_before_anything_is_answered(kind, options, said):
    with pytest.raises(PrerequisiteError) as caught:
        cmrm_judge(kind, **options)
    assert said in str(caught.value.message)


def test_a_judge_that_looks_is_given_the_image_as_a_run_opens_it(users_judges, tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    Image.new("RGB", (3, 2)).save(tmp_path / "turned.jpg", exif=turned)
    buffer = io.BytesIO()
    Image.new("RGB", (5, 2)).save(buffer, format="PNG")
    inline = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    samples = [
        Sample(
            id=number,
            input=[ChatMessageUser(content=[ContentImage(image=image), ContentText(text="what is it?")])],
        )
        for number, image in enumerate((str(tmp_path / "turned.jpg"), inline))
    ]
    samples.append(Sample(id=2, input="what is it?"))
    log = evaluate(make_task(samples, cmrm_judge("looking")), tmp_path / "logs")
    assert [str(score.explanation).partition(": ")[2] for score in list_scores(log, "judge")] == [
        "(2, 3)",
        "(5, 2)",
        "None",
    ]
    # A log whose images were left out cannot be judged by them.
    bare = evaluate(make_task(samples, SCORERS["refusal"]()), tmp_path / "bare", log_images=False)
    with pytest.raises(UserError, match="--log-images"):
        inspect_ai.score(bare, cmrm_judge("looking"), display="none")


@dataclass(frozen=True, kw_only=True)
class SlowJudge(Judge):
    """Waits until it is let go, and fails on what it is told to."""

    kind: ClassVar[str] = "slow"
    reads: ClassVar[frozenset[Field]] = frozenset(("answer",))

    batches: list[list[str]] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        self.begun.set()
        self.go.wait()
        self.batches.append([one.answer for one in answers])
        if any("bad" in one.answer for one in answers):
            raise ValueError("cannot read it")
        return [Verdict(verdict="safe", raw=one.answer) for one in answers]

    def spec(self) -> Mapping[str, Any]:
        return {}


def ask_all(judge: SlowJudge, answers: Sequence[str]) -> list[Any]:
    """Ask for a verdict on the first, and on the others while the judge is at that."""
    found: list[Any] = [None] * len(answers)

    async def ask(queue: JudgeQueue, number: int) -> None:
        try:
            found[number] = (await queue.ask(Answer(question="", answer=answers[number], harmful=True))).raw
        except Exception as error:  # noqa: BLE001 - whatever a judge raises
            found[number] = error

    async def main() -> None:
        queue = JudgeQueue(judge=judge)
        async with anyio.create_task_group() as group:
            group.start_soon(ask, queue, 0)
            await anyio.to_thread.run_sync(judge.begun.wait)
            for number in range(1, len(answers)):
                group.start_soon(ask, queue, number)
            await anyio.wait_all_tasks_blocked()
            judge.go.set()

    anyio.run(main)
    return found


def test_what_comes_in_while_a_judge_works_is_its_next_batch_and_the_loop_goes_on():
    judge = SlowJudge()
    answers = [f"answer {number}" for number in range(20)]
    assert ask_all(judge, answers) == answers
    assert [len(batch) for batch in judge.batches] == [1, 19]


def test_a_judge_that_fails_on_one_answer_gives_its_verdicts_on_the_others():
    judge = SlowJudge()
    found = ask_all(judge, ["first", "good", "bad", "fine"])
    assert found[0] == "first"
    assert (found[1], found[3]) == ("good", "fine")
    assert isinstance(found[2], ValueError)
    assert judge.batches == [["first"], ["good", "bad", "fine"], ["good"], ["bad"], ["fine"]]
