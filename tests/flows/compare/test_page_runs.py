"""What the page makes of unequal runs: one name for what is compared, and the command that makes it again."""

from __future__ import annotations

import html

import pytest

from cmrm.statistics.regression import Thresholds
from flows.compare.page.runs import name_commonly, read_page_runs
from flows.compare.page.write import write_comparison_page
from storage.store import Store
from tasks.compare.figures import draw_changes, draw_shift_changes
from tests.flows.compare.conftest import RUNS, make_spec
from tests.made_up_pair import commit_run, compare_pair, make_sample

MODELS = ("old@aaaaaaaaaaaa", "new@bbbbbbbbbbbb", "newer@cccccccccccc")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three runs, each of one model with a label of its own, the later ones unsafe with an image."""
    made = Store.create(tmp_path_factory.mktemp("labels"))
    for place, (run_id, model) in enumerate(zip(RUNS, MODELS, strict=True)):
        commit_run(
            made,
            run_id,
            say=lambda arm, _, place=place: "unsafe" if place and arm.condition == "image" else "safe",
            models=(model,),
            samples=[make_sample(number) for number in range(4)],
            shift={"delta": [[1.0, 2.0 + place]]},
            spec=make_spec(8),
        )
    return made


def test_arms_and_shifts_of_unlike_models_have_one_name_in_all_comparisons(store: Store) -> None:
    first, *later = read_page_runs(store, RUNS)
    found = {
        run.letter: name_commonly(
            compare_pair(store, RUNS[0], run.run_id, thresholds=Thresholds()), first, run
        )
        for run in later
    }
    changes, shifts = draw_changes(found), draw_shift_changes(found)
    assert changes is not None
    assert shifts is not None
    assert {(row["series"], row["label"]) for row in changes.data} == {
        (letter, name) for letter in "BC" for name in ("Query", "Image")
    }
    assert {row["model"] for row in shifts.data} == {"old"}
    for one in found.values():
        arms = [*(each.arm for each in one.changes), *(each.arm for each in one.flips)]
        assert len(one.flips) == 4
        assert {arm.model for arm in arms} == {"old"}


def test_the_page_says_by_which_command_it_is_made_with_thresholds_that_no_spec_states(store: Store) -> None:
    limits = {"unsafe_rise": 0.125, "utility_loss": None, "over_refusal": 0.0}
    found = compare_pair(store, *RUNS[:2], thresholds=Thresholds(unsafe_rise=0.125, over_refusal=0.0))
    path = write_comparison_page(store, [found], store_name="kept here", overrides=limits)
    text = html.unescape(store.local_path(path).read_text())
    assert (
        f"cmrm compare {RUNS[0]} {RUNS[1]} --unsafe-rise 0.125 --over-refusal 0.0 --html --store 'kept here'"
    ) in text
