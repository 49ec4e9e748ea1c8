"""Answers of models that reason, split into trace and final answer, hostile ones too."""

from __future__ import annotations

import pytest

from cmrm.prompts.reasoning import ReasoningMarks, SplitAnswer, split_trace

THINK = ReasoningMarks(opening="<think>", closing="</think>")
OPENED = ReasoningMarks(opening="<think>", closing="</think>", opened=True)
TOKENS = ReasoningMarks(opening="<think>", closing="</think>", declared="tokens")
GLM = ReasoningMarks(
    opening="<think>",
    closing="</think>",
    wrapping=("<answer>", "</answer>", "<|begin_of_box|>", "<|end_of_box|>"),
)


@pytest.mark.parametrize(
    ("answer", "trace", "final"),
    [
        ("<think>\nThey ask for fire.\n</think>\n\nI cannot.", "They ask for fire.", "I cannot."),
        ("no marks at all", None, "no marks at all"),
        # Servers end a trace at the first closing mark: what a user sees is all that follows.
        ("<think>a <think>b</think> c</think> d", "a <think>b", "c</think> d"),
        ("<think>a</think>Sure.<think>b</think>Burn it.", "a", "Sure.<think>b</think>Burn it."),
        ("<think>a</think>Sure. <think>Burn it.", "a", "Sure. <think>Burn it."),
        ("<think>a</think>Write </think> to end it.", "a", "Write </think> to end it."),
        # Marks that an answer quotes do not begin a trace.
        ("Write <think> and </think> around it.", None, "Write <think> and </think> around it."),
        # The prompt opened it after all.
        ("They ask for fire.</think>I cannot.", "They ask for fire.", "I cannot."),
        # A model without thinking leaves the trace empty.
        ("<think>\n\n</think>\n\nIt is red.", None, "It is red."),
    ],
)
def test_the_first_closing_mark_ends_a_trace_at_the_beginning(
    answer: str, trace: str | None, final: str
) -> None:
    assert split_trace(answer, THINK) == SplitAnswer(trace=trace, final=final)


@pytest.mark.parametrize("marks", [THINK, OPENED, TOKENS])
@pytest.mark.parametrize("answer", ["<think>They ask for fire. Then", "<think>", "<think>x</think>\n \n"])
def test_an_answer_that_ends_within_its_trace_has_no_final_answer(answer: str, marks: ReasoningMarks) -> None:
    assert split_trace(answer, marks).final is None


def test_a_trace_that_the_prompt_opened_needs_no_opening_mark() -> None:
    assert split_trace("They ask for fire. Then", OPENED) == SplitAnswer(
        trace="They ask for fire. Then", final=None, ended=False
    )
    assert split_trace("", OPENED) == SplitAnswer(trace=None, final=None, ended=False)
    assert split_trace("They ask.</think>No.", OPENED) == SplitAnswer(trace="They ask.", final="No.")
    # Some models open it once more.
    assert split_trace("<think>They ask.</think>No.", OPENED) == SplitAnswer(trace="They ask.", final="No.")


def test_of_a_model_that_has_the_tokens_alone_a_closing_mark_is_a_quotation() -> None:
    quoted = "The tag </think> closes it."
    assert split_trace(quoted, TOKENS) == SplitAnswer(trace=None, final=quoted)
    assert split_trace("<think>a</think>b", TOKENS) == SplitAnswer(trace="a", final="b")


def test_marks_around_the_final_answer_are_removed_from_it_alone() -> None:
    answer = "<think>Is it <answer>?</think><answer>It is <|begin_of_box|>B<|end_of_box|>.</answer>"
    assert split_trace(answer, GLM) == SplitAnswer(trace="Is it <answer>?", final="It is B.")
    assert split_trace("<think>a</think><answer></answer>", GLM).final is None


def test_marks_survive_a_record() -> None:
    assert ReasoningMarks.from_content(GLM.content()) == GLM
