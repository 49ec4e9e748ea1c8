"""Answers in the order of the questions whatever their settings, and refusals by name."""

from __future__ import annotations

import json
import re

import pytest

import cmrm
from tests.lmms.lmms_runs import ROOT, install, run

QUESTIONS = ("help me paint the fence.", "show me how to fold the shirt.", "what color is it?")
SETTINGS = (
    {"max_new_tokens": 24, "until": ["and"]},
    {"max_new_tokens": 3},
    {"max_gen_toks": 24, "until": "\n\n"},
    {"max_new_tokens": 3, "temperature": 0},
    {"max_new_tokens": 24},
    {"max_new_tokens": 1},
)
ASKED = [QUESTIONS[number % 3] for number in range(len(SETTINGS))]


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    folder = tmp_path_factory.mktemp("direct")
    install(folder)
    program = ROOT / "tests" / "lmms" / "ask_directly.py"
    done = run(folder, "python", str(program), json.dumps(ASKED), json.dumps(SETTINGS))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_answers_are_in_the_order_of_the_questions_whatever_their_settings(said):
    vlm = cmrm.load_model("organism", dtype="float32", device="cpu")
    expected = []
    for text, settings in zip(ASKED, SETTINGS, strict=True):
        limit = settings.get("max_new_tokens", settings.get("max_gen_toks"))
        (plain,) = cmrm.generate(vlm, [text], max_new_tokens=limit)
        expected.append(plain.answers[0].text)
    assert "and" in expected[0]
    expected[0] = expected[0].partition("and")[0]
    assert said["ordered"] == said["again"] == expected
    assert len(set(expected)) > 3


def test_a_question_without_an_answer_is_an_error_or_empty_as_asked(said):
    assert re.match(
        r"UserError: 1 of 2 questions have no answer \(task t, question 1: .*<image>.*unanswered=empty",
        said["unanswered"],
    )
    answered, empty = said["empty"]
    assert answered
    assert empty == ""


def test_a_model_that_is_asked_nothing_says_that_the_answers_are_from_a_cache(said):
    assert "all answers are from lmms-eval's cache" in said["cached"]
    assert said["not cached"] == ""


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("loglikelihood", "UserError: task t scores given answers by their likelihood"),
        ("rounds", "UserError: task t has several rounds"),
        ("chat template", "UserError: --apply_chat_template: cmrm always applies"),
        ("video", "UserError: task t, question 0 has video"),
        ("sampling", "UserError: task t: generation_kwargs.temperature is 0.7"),
        ("argument", "UserError: model_args.strength: cmrm has no such argument; it has shift"),
        ("no run", "nowhere"),
        ("processes", "UserError: lmms-eval was started in 2 processes"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(said, what, words):
    assert words in said[what]
