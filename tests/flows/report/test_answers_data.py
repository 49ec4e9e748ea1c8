"""The data of the report page: nothing of the answers is lost on the way, and they fit in a page."""

from __future__ import annotations

import gzip
import json
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flows.report import answers_data
from flows.report.answers_data import PageData, make_page_data
from flows.report.answers_page import Answers, read_answers
from storage.store import Store
from tests.made_up import EVIL, SETS, SETTINGS, judge_answer, list_arms, make_answers, make_samples
from tests.made_up_run import commit_answers

JUDGES = ("refusal", "guard", "match")
SAMPLES = 8


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    store = Store.create(tmp_path_factory.mktemp("store"))
    used = commit_answers(store, models=["moon@1"], samples=SAMPLES, strengths=[0.5, 1.0], judges=JUDGES)
    return read_answers(store, used, interventions=list(SETTINGS))


def make(answers: Answers, images: Mapping[str, Path | None] | None = None) -> PageData:
    return make_page_data(answers, images=[images or {}], names={"moon@1": "moon"})


def unpack(page: PageData) -> list[Any]:
    """All samples' texts, in order."""
    data = {**page.first, **page.later}
    chunks = [data[f"answers-texts-{number}"] for number in range(sum("texts" in name for name in data))]
    return [one for chunk in chunks for one in json.loads(gzip.decompress(b64decode(chunk)))]


def test_every_answer_and_verdict_is_in_the_page(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_data, "CHUNK", 5)
    page = make(answers)
    index, texts = page.first["answers-data"], unpack(page)
    arms = list_arms(["moon@1"], [0.5, 1.0])
    assert (page.shown, len(texts), index["chunk"]) == (24, 24, 5)
    assert [one["name"] for one in index["arms"]] == [
        one["name"] for one in index["arms"] if not one["model"]
    ]
    columns = index["samples"]
    asked = [row for dataset in SETS for row in make_samples(dataset, SAMPLES)]
    assert columns["id"] == [row["sample_id"] for row in asked]
    assert [index["datasets"][number] for number in columns["dataset"]] == [row["dataset"] for row in asked]
    assert [index["categories"][number] for number in columns["category"]] == [
        row["category"] for row in asked
    ]
    for arm, (place, dataset) in ((a, s) for a in arms for s in enumerate(SETS)):
        for number, row in enumerate(make_answers(arm, dataset, SAMPLES)):
            at = place * SAMPLES + number
            said = [judge_answer(judge, row) for judge in JUDGES]
            expected = [
                (one["judge"], one["verdict"], one["refused"], one["score"])
                for one in said
                if one["verdict"] != "not_applicable"
            ]
            column = arms.index(arm)
            assert sorted(index["verdicts"][index["answers"][at * len(arms) + column]]) == sorted(expected)
            found = {one[0]: one[1:] for one in texts[at][2]}[column]
            assert (found or [""])[0] == row["answer"][:2000]
            assert (len(found) > 1) == (len(row["answer"]) > 2000)


def test_what_the_first_samples_need_comes_before_the_rest(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_data, "CHUNK", 10)
    page = make(answers)
    assert set(page.first) == {"answers-data", "answers-texts-0"}
    assert set(page.later) == {"answers-texts-1", "answers-texts-2"}


def test_fewer_samples_are_drawn_where_their_texts_do_not_fit(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(map(len, (chunk for name, chunk in make(answers).first.items() if "texts" in name)))
    monkeypatch.setattr(answers_data, "MOST_TEXTS", size - 1)
    fewer = make(answers)
    assert 3 < fewer.shown < 24
    index = fewer.first["answers-data"]["samples"]
    assert {*index["dataset"]} == {0, 1, 2}
    monkeypatch.setattr(answers_data, "MOST_TEXTS", size // 2)
    least = make(answers)
    names = [
        set(zip(one["dataset"], one["id"], strict=True))
        for one in (least.first["answers-data"]["samples"], index)
    ]
    assert names[0] < names[1]


def test_the_first_model_is_named_where_there_are_several(answers: Answers) -> None:
    page = make_page_data(answers, images=[], names={"moon@1": "moon", "x": "y"})
    assert {arm["model"] for arm in page.first["answers-data"]["arms"]} == {"moon"}
    assert [arm["name"] for arm in page.first["answers-data"]["arms"] if arm["open"]] == [
        "Query",
        "Image",
        "CMRM dataset α=1",
        "CMRM sample α=1",
    ]
    assert EVIL in page.first["answers-data"]["categories"]


def test_thumbnails_get_what_the_texts_leave(
    answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (2, 300, 200, 3), dtype=np.uint8)
    for number in range(2):
        Image.fromarray(noise[number]).save(tmp_path / f"{number}.png")
    page = make(answers, dict.fromkeys(SETS, tmp_path))
    index = page.first["answers-data"]
    assert index["images"][:6] == [0, 1, 0, 1, "missing", None]
    whole = page.first["answers-images-0"]
    assert len(whole) == 2
    texts = sum(map(len, (chunk for name, chunk in page.first.items() if "texts" in name)))
    monkeypatch.setattr(answers_data, "MOST_PAGE", answers_data.RESERVE + texts + sum(map(len, whole)) // 2)
    smaller = make(answers, dict.fromkeys(SETS, tmp_path)).first["answers-images-0"]
    assert len(smaller) == 2
    assert sum(map(len, smaller)) <= sum(map(len, whole)) // 2


def test_a_run_without_answers_has_no_data() -> None:
    assert make(Answers(arms=[], samples=[], total=0)) == PageData(first={})
