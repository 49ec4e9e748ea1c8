"""Answers on the report page: every answer in its arm with its verdicts, truncated if too many or too long."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flows.report import answers_page as answers_module
from flows.report.answers_page import MOST_LETTERS, Answers, read_answers
from storage.errors import StoreError
from storage.store import Store
from tests.made_up import SETS, SETTINGS, make_answers
from tests.made_up_run import commit_answers

Used = dict[str, list[str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Used]:
    store = Store.create(tmp_path_factory.mktemp("store"))
    used = commit_answers(
        store, models=["moon@1"], samples=8, strengths=[0.5, 1.0], judges=("refusal", "guard", "match")
    )
    return store, used


def read(run: tuple[Store, Used]) -> Answers:
    store, used = run
    return read_answers(store, used, interventions=list(SETTINGS))


def test_each_sample_has_its_answer_in_every_arm_in_the_order_of_the_table(run: Any) -> None:
    found = read(run)
    assert [arm.condition for arm in found.arms[:5]] == ["query", "caption", "image", "blank", "noise"]
    assert [(arm.intervention, arm.alpha) for arm in found.arms[5:]] == [
        (name, alpha) for name in SETTINGS for alpha in (0.5, 1.0)
    ]
    assert (len(found.samples), found.total) == (24, 24)
    for asked in found.samples:
        assert [one.arm for one in asked.answers] == list(range(9))
    stored = {row["sample_id"]: row["answer"] for row in make_answers(found.arms[6], "vlsafe", 8)}
    for asked in found.samples[:8]:
        text = stored[asked.sample["sample_id"]]
        assert asked.answers[6].text == text[:MOST_LETTERS]
        assert asked.answers[6].letters == len(text)


def test_verdicts_stand_with_their_answers_and_what_does_not_apply_is_left_out(run: Any) -> None:
    found = read(run)
    for asked in found.samples:
        judges = ["refusal", "guard"] if asked.sample["harmful"] else ["refusal", "guard", "match"]
        for one in asked.answers:
            assert [verdict.judge for verdict in one.verdicts] == judges
            assert (one.verdicts[0].verdict == "parse_error") == (not one.text)


def test_changed_says_that_an_intervention_changed_a_verdict_on_the_image(run: Any) -> None:
    found = read(run)
    assert {asked.changed for asked in found.samples} == {True, False}
    image = next(place for place, arm in enumerate(found.arms) if arm.condition == "image")
    for asked in found.samples:
        said = [[(v.judge, v.verdict, v.refused) for v in one.verdicts] for one in asked.answers]
        assert asked.changed == any(one != said[image] for one in said[5:])


def test_a_long_answer_is_cut_and_says_how_long_it_was(run: Any) -> None:
    one = next(asked for asked in read(run).samples if asked.sample["sample_id"] == "v3").answers[0]
    assert len(one.text) == MOST_LETTERS < one.letters


def test_of_too_many_samples_some_are_drawn_from_every_data_set(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "MOST_SAMPLES", 10)
    found = read(run)
    assert (len(found.samples), found.total) == (10, 24)
    assert sorted(Counter(asked.sample["dataset"] for asked in found.samples).values()) == [3, 3, 4]
    assert [asked.sample for asked in read(run).samples] == [asked.sample for asked in found.samples]
    monkeypatch.setattr(answers_module, "MOST_ANSWERS", 9 * 5)
    assert len(read(run).samples) == 5


def test_samples_without_answers_take_no_share_of_the_page(run: Any) -> None:
    store, used = run
    first = {**used, "generate": used["generate"][:1], "judge": used["judge"][:3]}
    found = read((store, first))
    assert {asked.sample["dataset"] for asked in found.samples} == {next(iter(SETS))}
    assert (len(found.samples), found.total) == (8, 8)


def test_what_vanished_is_named_and_no_run_without_answers_fails(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    nothing: Used = {"ingest": [], "generate": [], "judge": []}
    assert read_answers(store, nothing, interventions=[]).samples == []
    with pytest.raises(StoreError, match=r"generate 000000000000 vanished .*give the same command again"):
        read_answers(store, {**nothing, "generate": ["0" * 64]}, interventions=[])
