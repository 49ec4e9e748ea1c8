"""What answers in tests of Inspect tasks: Inspect's own mock model, or the answers that a run has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import inspect_ai
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import ChatMessage, Model, ModelOutput, ModelUsage, get_model
from inspect_ai.solver import Generate, Solver, TaskState, solver


def say(text: str) -> ModelOutput:
    """An answer. Without a usage the mock model counts tokens, and downloads a vocabulary for that."""
    output = ModelOutput.from_content("mockllm/model", text)
    output.usage = ModelUsage()
    return output


def mock(answer: Callable[[ChatMessage], str]) -> Model:
    """A model that answers the last message of a conversation by a function."""
    return get_model(
        "mockllm/model", memoize=False, custom_outputs=lambda messages, *_: say(answer(messages[-1]))
    )


@solver
def replay(answers: Mapping[str, str]) -> Solver:
    """Answer each sample, by its id, with a text that is there already."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        state.output = say(answers[str(state.sample_id)])
        return state

    return solve


def evaluate(task: Any, folder: Path, **options: Any) -> EvalLog:
    """Evaluate a task and read its log back from the file; by default every answer is "no."."""
    (log,) = inspect_ai.eval(
        task, **{"model": mock(lambda _: "no."), "display": "none", "log_dir": str(folder), **options}
    )
    assert log.status == "success", log.error
    return read_eval_log(log.location, resolve_attachments=True)


def read_rates(log: EvalLog) -> dict[str, dict[str, float]]:
    """The metrics of a log by scorer and name."""
    assert log.results is not None
    return {
        score.name: {name: metric.value for name, metric in score.metrics.items()}
        for score in log.results.scores
    }
