"""Three tasks of lmms-eval on the embedded model, plain and steered, and what cannot be honoured."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest

import cmrm
from tests.lmms.conftest import QUESTIONS
from tests.lmms.lmms_runs import read_json, read_samples

ARMS = ("plain", "steered")
# Those of specs/organism-main.yaml.
BLOCKS = (5, 6, 7)


@pytest.fixture(scope="module")
def expected(bench):
    """cmrm's own answers to the questions, by task and arm."""
    vlm = cmrm.load_model("organism", dtype="float32", device="cpu")
    (path,) = (bench.folder / "cmrm-store" / "shifts").rglob("*.safetensors")
    shift = cmrm.load_shift(path)
    # The run steers at some of the blocks that Δ was measured at.
    places = [shift.blocks.index(block) for block in BLOCKS]
    steered = cmrm.Intervention(delta=shift.delta[places], alpha=1.0, blocks=BLOCKS)
    asked = {
        "colors": [row["question"] for row in bench.rows["colors"]],
        "sides": [row["question"] for row in bench.rows["sides"]],
        "choices": [
            f"{row['question']}: {', '.join(json.loads(row['options']))}?" for row in bench.rows["choices"]
        ],
    }
    found = {}
    for task, limit in (("colors", 16), ("sides", 24), ("choices", 16)):
        prompts = [
            cmrm.Prompt(text=text, image=row["image"])
            for text, row in zip(asked[task], bench.rows[task], strict=True)
        ]
        arms = cmrm.generate(vlm, prompts, arms=[None, steered], max_new_tokens=limit)
        found[task] = {name: [one.text for one in arm.answers] for name, arm in zip(ARMS, arms, strict=True)}
    return found


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("task", ["colors", "sides", "choices"])
def test_answers_are_those_of_generate_on_the_same_prompts(bench, expected, task, arm):
    samples = read_samples(bench.folder / arm, task)
    assert [one["doc_id"] for one in samples] == list(range(QUESTIONS))
    assert [one["filtered_resps"] for one in samples] == expected[task][arm]


def test_steering_changes_some_answers_of_each_kind(expected):
    assert any(arms["plain"] != arms["steered"] for arms in expected.values())


@pytest.mark.parametrize("arm", ARMS)
def test_scores_are_what_a_few_lines_find(bench, arm):
    results = read_json(bench.folder / arm, "**/*_results.json")["results"]
    answers = {
        task: [one["filtered_resps"] for one in read_samples(bench.folder / arm, task)] for task in bench.rows
    }
    exact = [
        re.sub(r"[^\w ]", "", said).lower() == row["answer"].lower()
        for said, row in zip(answers["colors"], bench.rows["colors"], strict=True)
    ]
    yes = [row["place"] in said for said, row in zip(answers["sides"], bench.rows["sides"], strict=True)]
    right = [one == (row["answer"] == "yes") for one, row in zip(yes, bench.rows["sides"], strict=True)]
    chosen = [
        [letter for letter, option in zip("ABC", json.loads(row["options"]), strict=True) if option in said]
        == [row["answer"]]
        for said, row in zip(answers["choices"], bench.rows["choices"], strict=True)
    ]
    scores = {
        ("colors", "exact_match"): exact,
        ("sides", "accuracy"): right,
        ("sides", "yes_share"): yes,
        ("choices", "choice_score"): chosen,
    }
    for (task, metric), each in scores.items():
        assert results[task][f"{metric},none"] == pytest.approx(np.mean(each)), (task, metric)
        assert 0 < np.mean(each) <= 1, (task, metric)


def test_the_pair_of_the_page_is_what_numpy_finds(bench):
    plain, steered = (
        np.array([one["exact_match"] for one in read_samples(bench.folder / arm, "colors")]) for arm in ARMS
    )
    said = re.search(
        r"colors exact_match: (\S+) plain, (\S+) steered, change (\S+) \[(\S+), (\S+)\], n = (\d+)",
        bench.printed,
    )
    before, after, change, low, high, count = map(float, said.groups())
    assert (before, after, count) == (
        pytest.approx(plain.mean(), abs=6e-4),
        pytest.approx(steered.mean(), abs=6e-4),
        QUESTIONS,
    )
    assert change == pytest.approx((steered - plain).mean(), abs=6e-4)
    assert low <= change <= high


def test_the_record_has_the_shift_and_the_proof(bench):
    plain, steered = (read_json(bench.folder / arm, "cmrm_*.json") for arm in ARMS)
    (path,) = (bench.folder / "cmrm-store" / "shifts").rglob("*.safetensors")
    assert list(steered["shifts"].values()) == [hashlib.sha256(path.read_bytes()).hexdigest()]
    assert (plain["shifts"], plain["arm"], plain["states_moved"]) == ({}, "plain", {})
    assert (steered["arm"], steered["interventions"][0]["alpha"]) == ("CMRM dataset", 1.0)
    assert plain["answers"] == steered["answers"] == steered["steered_answers"] == 3 * QUESTIONS
    # The last prompt token, and each generated one but the last, which nothing follows.
    assert steered["states_moved"] == dict.fromkeys(map(str, BLOCKS), steered["tokens"])
    counted = [
        one["token_counts"][0]["output_tokens"]
        for task in bench.rows
        for one in read_samples(bench.folder / "steered", task)
    ]
    assert steered["tokens"] == sum(counted)
    assert min(steered["mean_distance"].values()) > 0
    assert "cmrm: the same is in" in bench.printed
