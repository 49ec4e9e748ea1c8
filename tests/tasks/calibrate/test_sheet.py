"""A sheet is a stratified random sample in random order, drawn again from its name, and says nothing of arms."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from scipy import stats

from cmrm.errors import UserError
from tasks.calibrate.sheet import allocate, count_strata, draw_sheet, parse_sheet_name

JUDGES = {"refusal": (0.9, 0.9), "guard": (0.8, 0.95)}


@pytest.mark.parametrize(
    ("sizes", "total", "expected"),
    [
        ([10, 10], 10, [5, 5]),
        ([2, 50, 50], 20, [2, 9, 9]),
        ([1, 2, 3], 100, [1, 2, 3]),
        ([50, 3, 50, 0], 13, [5, 3, 5, 0]),
        ([5, 5, 5], 4, [1, 1, 2]),
    ],
)
def test_small_strata_leave_their_rest_to_large_ones(sizes: Any, total: int, expected: list[int]) -> None:
    assert allocate(sizes, total) == expected


def test_each_stratum_gives_its_share(plant: Any, arms: Any) -> None:
    frame = plant({arms[0]: 0.5, arms[1]: 0.02}, judges=JUDGES, samples=60).frame
    sheet = draw_sheet(frame, size=80, seed=1)
    drawn = Counter(row.stratum for row in sheet.rows)
    counted = Counter((one.arm, one.dataset, one.verdicts["refusal"]) for one in frame.answers)
    assert {(one.arm, one.dataset, one.verdict): n for one, n in sheet.strata.items()} == counted
    assert len(sheet.strata) == count_strata(frame) == 8
    assert sum(drawn.values()) == 80 == len({row.id for row in sheet.rows})
    assert all(drawn[stratum] >= min(10, count) for stratum, count in sheet.strata.items())
    assert (sheet.judge, sheet.answers) == ("refusal", 240)


def test_the_same_name_is_the_same_sheet_and_another_seed_another(plant: Any, arms: Any) -> None:
    frame = plant(dict.fromkeys(arms, 0.5), judges=JUDGES, samples=60).frame
    sheet = draw_sheet(frame, size=80, seed=1)
    assert parse_sheet_name(sheet.name) == (frame.run_id, 80, 1)
    again, other = draw_sheet(frame, size=80, seed=1), draw_sheet(frame, size=80, seed=2)
    assert [row.id for row in again.rows] == [row.id for row in sheet.rows]
    assert again.name == sheet.name != other.name
    assert {row.answer.question for row in other.rows} != {row.answer.question for row in sheet.rows}
    for text in ("", "latest", "r.n5.s1", "r.n5.s1.xyz", f"{sheet.name}0", "../r.n5.s1.00000000"):
        assert parse_sheet_name(text) is None


def test_neither_ids_nor_places_follow_arm_verdict_or_draw(plant: Any, arms: Any) -> None:
    frame = plant({arms[0]: 0.5, arms[1]: 0.03}, judges=JUDGES, samples=300).frame
    sheet = draw_sheet(frame, size=400, seed=0)
    ids = sorted(row.id for row in sheet.rows)
    for ranks in ([ids.index(row.id) for row in sheet.rows], list(range(len(ids)))):
        for attribute in (
            lambda row: row.stratum.arm == arms[1],
            lambda row: row.stratum.verdict == "unsafe",
            lambda row: row.stratum.dataset == "a",
        ):
            sides = [[], []]
            for rank, row in zip(ranks, sheet.rows, strict=True):
                sides[attribute(row)].append(rank)
            assert stats.mannwhitneyu(*sides).pvalue > 0.001
    assert all(row.id[0] == "a" and len(row.id) == 17 and int(row.id[1:], 16) >= 0 for row in sheet.rows)


def test_every_answer_of_a_stratum_is_as_likely_to_be_drawn(plant: Any, arms: Any) -> None:
    frame = plant({arms[0]: 1.0}, judges={"refusal": (1.0, 1.0)}, samples=20, datasets=("a",)).frame
    counts = Counter(
        row.answer.sample_id for seed in range(400) for row in draw_sheet(frame, size=5, seed=seed).rows
    )
    assert len(counts) == 20
    assert stats.chisquare(list(counts.values())).pvalue > 0.001


def test_a_size_below_the_strata_is_refused(plant: Any, arms: Any) -> None:
    frame = plant(dict.fromkeys(arms, 0.5), judges=JUDGES, samples=20).frame
    with pytest.raises(UserError, match=r"--size 7: .* 8 strata .* give 8 or more, better 32"):
        draw_sheet(frame, size=7, seed=0)


def test_answers_that_the_first_judge_could_not_read_are_a_stratum(plant: Any, arms: Any) -> None:
    frame = plant({arms[0]: 0.5}, judges=JUDGES, samples=20, datasets=("a",)).frame
    for answer in frame.answers[:3]:
        del answer.verdicts["refusal"]
    sheet = draw_sheet(frame, size=12, seed=0)
    assert {stratum.verdict: n for stratum, n in sheet.strata.items()}["unread"] == 3
