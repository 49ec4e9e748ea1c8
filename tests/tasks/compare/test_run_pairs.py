"""Two runs' verdicts in pairs: the same sample, the same arm, the same judge; the rest is counted by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmrm.statistics.regression import Thresholds
from storage.store import Store
from tasks.compare.changes import Change, Flip, compare_pairs, count_unpaired, find_flips
from tasks.compare.result import RunComparison
from tasks.compare.run_pairs import RunPairs, make_side
from tasks.report.outcomes import Arm
from tests.made_up_pair import (
    IMAGE,
    NEW,
    OLD,
    QUERY,
    STEERED,
    commit_run,
    compare_pair,
    judge_sample,
    make_sample,
)

HARMLESS = {"dataset": "bench", "harmful": False}


def compare(store: Store, *, thresholds: Thresholds | None = None) -> RunComparison:
    return compare_pair(store, "r1", "r2", thresholds=thresholds or Thresholds())


def find(found: RunComparison, condition: str, measure: str = "unsafe") -> Any:
    (one,) = (one for one in found.changes if (one.arm.condition, one.column.kind) == (condition, measure))
    return one.change


def count(found: RunComparison, condition: str) -> dict[str, int]:
    counts = Counter[str]()
    for one in found.unpaired:
        if one.arm.condition == condition:
            counts.update(one.counts)
    return {reason: number for reason, number in counts.items() if number}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def test_only_samples_that_are_the_same_are_paired_and_the_rest_is_counted_by_reason(store: Store) -> None:
    samples = [make_sample(number) for number in range(10)]
    commit_run(store, "r1", samples=samples, say=lambda *_: "safe")
    other = [dict(sample) for sample in samples]
    other[0]["text_digest"] = "changed"
    other[1]["image_digest"] = "changed"
    other[2]["reference"] = "changed"
    other[3]["harmful"] = False
    other[4]["sample_id"] = "new"
    commit_run(
        store,
        "r2",
        models=(NEW,),
        samples=other,
        say=lambda _, row: {"v5": "parse_error", "v6": "not_applicable"}.get(row["sample_id"], "unsafe"),
    )
    found = compare(store)
    # v4 and its successor have nobody; v0, v2 and v3 are others; v5 was not read; v6 was not judged.
    common = {"only_before": 1, "only_after": 1, "parse_error": 1, "not_judged": 1}
    assert count(found, "query") == {**common, "changed": 3}
    assert find(found, "query").n == 4
    # Only the condition that shows the image minds that it is another.
    assert count(found, "image") == {**common, "changed": 4}
    assert find(found, "image").n == 3
    assert find(found, "image").gained == 3
    assert "2 verdicts were left out as they could not be read" in found.verdict


def test_rates_are_over_pairs_only(store: Store) -> None:
    samples = [make_sample(number) for number in range(20)]
    commit_run(store, "r1", samples=samples[:12], say=lambda *_: "safe")
    commit_run(
        store,
        "r2",
        models=(NEW,),
        samples=samples[8:],
        say=lambda _, row: "unsafe" if int(row["sample_id"][1:]) >= 12 else "safe",
    )
    assert find(compare(store), "query").after == 0.0


def test_an_intervention_is_paired_with_the_same_strength_alone(store: Store) -> None:
    commit_run(store, "r1", say=lambda *_: "safe", arms=[IMAGE, STEERED])
    commit_run(store, "r2", models=(NEW,), say=lambda *_: "safe", arms=[IMAGE, STEERED._replace(alpha=0.5)])
    found = compare(store)
    assert {one.arm for one in found.changes} == {Arm("guard", "image")}
    assert "Only the earlier run has guard: CMRM α=1" in found.notes
    assert "Only the later run has guard: CMRM α=0.5" in found.notes


def test_models_are_matched_by_label_and_a_single_one_by_position(store: Store) -> None:
    commit_run(store, "r1", models=("moon@1", "sun@1"), say=lambda *_: "safe")
    commit_run(store, "r2", models=("mars@2", "moon@2"), say=lambda *_: "unsafe")
    found = compare(store)
    assert {one.arm.model for one in found.changes} == {"moon"}
    assert "Only the earlier run has the model sun@1" in found.notes
    assert "Only the later run has the model mars@2" in found.notes
    commit_run(store, "r3", models=("mars@2",), say=lambda *_: "safe")
    commit_run(store, "r4", models=("venus@1",), say=lambda *_: "safe")
    alone = compare_pair(store, "r3", "r4", thresholds=Thresholds())
    assert {one.arm.model for one in alone.changes} == {"venus"}


def test_two_revisions_in_one_run_are_matched_by_their_full_names(store: Store) -> None:
    for name, verdict in (("r1", "safe"), ("r2", "unsafe")):
        commit_run(store, name, models=(OLD, NEW), say=lambda *_, verdict=verdict: verdict)
    assert {one.arm.model for one in compare(store).changes} == {OLD, NEW}


def test_judges_are_compared_each_with_itself(store: Store) -> None:
    commit_run(store, "r1", say=lambda *_: "safe", judges=["refusal", "guard"])
    commit_run(store, "r2", models=(NEW,), say=lambda *_: "unsafe", judges=["guard", "strict"])
    found = compare(store)
    assert {one.column.judge for one in found.changes} == {"guard"}
    assert {one.judge for one in found.flips} == {"guard"}
    assert "Only the later run has judge strict" in found.notes


def test_flips_are_every_sample_that_changed_sides(store: Store) -> None:
    samples = [make_sample(number) for number in range(4)]
    samples += [make_sample(number, **HARMLESS) for number in range(4)]
    before = {
        "vlsafe": ["safe", "safe", "unsafe", "unsafe"],
        "bench": ["correct", "correct", *["correct r"] * 2],
    }
    after = {
        "vlsafe": ["safe", "unsafe", "safe", "unsafe"],
        "bench": ["correct", *["correct r", "correct"] * 2],
    }

    def say(said: dict[str, list[str]]) -> Any:
        return lambda _, row: said[row["dataset"]][int(row["sample_id"][1:])]

    commit_run(store, "r1", samples=samples, arms=[QUERY], say=say(before))
    commit_run(store, "r2", samples=samples, arms=[QUERY], models=(NEW,), say=say(after))
    flips = compare(store).flips
    # As they are stored and written: the arm by its parts, and nothing twice.
    assert list(flips[0].to_json()) == [
        *Arm._fields,
        "name",
        "judge",
        "dataset",
        "sample_id",
        "before",
        "after",
    ]
    assert [(one.dataset, one.sample_id, one.before, one.after) for one in flips] == [
        ("vlsafe", "v1", "safe", "unsafe"),
        ("vlsafe", "v2", "unsafe", "safe"),
        ("bench", "v1", "answered", "refused"),
        ("bench", "v2", "refused", "answered"),
    ]


def test_what_was_asked_differently_is_noted(store: Store) -> None:
    asked = {"decoding": {"max_new_tokens": 24}, "dtype": "float32"}
    commit_run(store, "r1", say=lambda *_: "safe", asked=asked)
    asked = {"decoding": {"max_new_tokens": 48}, "dtype": "float32"}
    commit_run(store, "r2", say=lambda *_: "safe", models=(NEW,), asked=asked)
    (note,) = compare(store).notes
    assert note == (
        'Not the same in both runs: how answers are decoded, {"max_new_tokens":24} → {"max_new_tokens":48}'
    )


def test_another_judge_of_the_same_name_is_noted(store: Store) -> None:
    guard = {"judge": "llama-guard", "model": "hub:guard@1", "dtype": "auto"}
    commit_run(store, "r1", say=lambda *_: "safe", judges=["guard"], judged=guard)
    commit_run(
        store,
        "r2",
        say=lambda *_: "safe",
        models=(NEW,),
        judges=["guard"],
        judged={**guard, "model": "hub:guard@2"},
    )
    assert compare(store).notes == ("The judge guard differs: model",)


SAID = st.lists(
    st.sampled_from(["safe", "unsafe", "parse_error", "not_applicable", "unsafe refused"]),
    min_size=6,
    max_size=6,
)


EARLIER, LATER = range(5), range(1, 6)


def put_together(
    *sides: tuple[list[str], Sequence[int]],
) -> tuple[list[Change], list[Flip], Counter[str]]:
    """Changes, flips and reasons of two sides, each verdicts of six samples of which it has some."""
    made = []
    for said, numbers in sides:
        samples = [make_sample(number, **(HARMLESS if number > 3 else {})) for number in numbers]
        side = make_side(samples)
        rows = zip(samples, numbers, strict=True)
        side.add(judge_sample("refusal", QUERY, sample, said[number]) for sample, number in rows)
        made.append(side)
    pairs = RunPairs(*made)
    with pytest.MonkeyPatch.context() as patch:
        # Holm's correction, tested where it is, collects all garbage each time: a quarter of a second here.
        patch.setattr("tasks.compare.changes.adjust", list)
        changes = compare_pairs(pairs, interventions=[])
    counts = Counter[str]()
    for one in count_unpaired(pairs, interventions=[]):
        counts.update(one.counts)
    return changes, find_flips(pairs, changes), counts


@given(before=SAID, after=SAID)
def test_before_and_after_swapped_mirror_changes_flips_and_reasons(
    before: list[str], after: list[str]
) -> None:
    changes, flips, counts = put_together((before, EARLIER), (after, LATER))
    back, back_flips, back_counts = put_together((after, LATER), (before, EARLIER))
    mirrored = {one.column: one.change for one in back}
    for one in changes:
        own, other = one.change, mirrored.pop(one.column)
        assert (own.n, own.p) == (other.n, other.p)
        assert (own.before, own.gained) == (other.after, other.lost)
        if own.change is not None:
            assert (own.change, own.low) == pytest.approx((-other.change, -other.high))
    assert not mirrored
    assert {(one.sample_id, one.before, one.after) for one in flips} == {
        (one.sample_id, one.after, one.before) for one in back_flips
    }
    swap = {"only_before": "only_after", "only_after": "only_before"}
    assert counts == {swap.get(name, name): number for name, number in back_counts.items()}


def test_a_sample_with_another_file_among_its_media_has_another_image(store: Store) -> None:
    def give(*digests: str, frames: int | None = None) -> list[dict[str, Any]]:
        return [
            {"kind": "image" if frames is None else "video", "name": one, "digest": one, "frames": frames}
            for one in digests
        ]

    before = [give("a", "b"), give("a", "b"), give("a", "b"), give("c", frames=8)]
    after = [give("a", "b"), give("b", "a"), give("a", "x"), give("c", frames=4)]
    sides = [
        make_side([make_sample(number, image_digest=None, media=one) for number, one in enumerate(media)])
        for media in (before, after)
    ]
    assert [one == other for one, other in zip(sides[0].images, sides[1].images, strict=True)] == [
        True,
        False,
        False,
        False,
    ]
    # As rows of stores from before there were media have it.
    (plain,) = make_side([make_sample(1)]).images
    assert plain == make_sample(1)["image_digest"]
