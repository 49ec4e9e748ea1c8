"""Maps of final states: which samples and points they have, how they are packed, and measures at each block."""

from __future__ import annotations

import json
from base64 import b64decode
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import figure
from sklearn.decomposition import PCA

from storage.errors import StoreError
from storage.shards.hidden_states import hidden_states_table, list_samples, read_samples
from storage.tables.parquet import to_parquet
from tasks.report.state_blocks import BlockMeasures, choose_groups, draw_state_blocks
from tasks.report.state_maps import StateMap, StateSet, find_sets, make_maps, write_maps
from tasks.report.states import Found, StateGroup

TEXT, IMAGE = StateGroup("query"), StateGroup("image")
STEERED = StateGroup("image", "CMRM", 1.0)
BLOCKS, WIDTH = (0, 4, 9), 6
States = dict[StateGroup, np.ndarray]


def write_states(
    folder: Path, dataset: str, ids: list[str], *, groups: tuple[StateGroup, ...], seed: int
) -> tuple[dict[StateGroup, list[Path]], States]:
    """Files of two shards for each group, and the states that they hold, [samples, blocks, width]."""
    chance = np.random.default_rng(seed)
    # The widths of the axes differ, so that components are those of the axes, and change little with the block.
    base = chance.normal(size=(len(ids), 1, WIDTH)) * [8, 4, 1, 1, 1, 1]
    paths, states = {}, {}
    for place, group in enumerate(groups):
        own = base + 0.1 * chance.normal(size=(len(ids), len(BLOCKS), WIDTH)) + place
        states[group] = own.astype(np.float32)
        paths[group] = []
        for part in (slice(0, len(ids) // 2), slice(len(ids) // 2, None)):
            table = hidden_states_table(
                model="m@1",
                dataset=dataset,
                sample_ids=ids[part],
                condition=group.condition,
                blocks=BLOCKS,
                vectors=states[group][part],
                intervention=group.intervention,
                alpha=group.alpha,
            )
            path = folder / f"{dataset}-{place}-{part.start}.parquet"
            path.write_bytes(to_parquet(table, "hidden_states"))
            paths[group].append(path)
    return paths, states


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Found, dict[str, States]]:
    names = [f"s{number:02}" for number in range(30)]
    first, first_states = write_states(tmp_path, "one", names, groups=(TEXT, IMAGE, STEERED), seed=0)
    second, second_states = write_states(tmp_path, "two", names[:20], groups=(TEXT, IMAGE), seed=1)
    found: Found = {("m@1", "one"): {"target": first}, ("m@1", "two"): {"target": second}}
    return found, {"one": first_states, "two": second_states}


def ignore(*_: Any) -> None:
    return


def unpack(made: StateMap) -> tuple[dict[str, Any], np.ndarray]:
    """A map's JSON, and its coordinates [blocks, groups, samples, 2]."""
    (record,) = json.loads(write_maps([made]))
    count = sum(len(ids) for _, ids in record["samples"])
    shape = len(record["blocks"]), len(record["groups"]), count, 2
    numbers = np.frombuffer(b64decode(record["points"]), dtype="<u2").reshape(shape)
    low, step = (np.array(record[name])[:, None, None] for name in ("low", "step"))
    return record, low + step * numbers


def test_a_map_has_the_components_of_its_unsteered_states_at_each_block(
    stored: tuple[Found, dict[str, States]],
) -> None:
    found, states = stored
    record, points = unpack(make_maps(find_sets(found), measure=ignore)[1])
    assert record["samples"] == [["one", [f"s{number:02}" for number in range(30)]]]
    assert record["groups"][2] == {"condition": "image", "intervention": "CMRM", "alpha": 1.0}
    assert record["blocks"] == list(BLOCKS)
    for place in range(len(BLOCKS)):
        own = [states["one"][group][:, place].astype(np.float64) for group in (TEXT, IMAGE, STEERED)]
        fitted = PCA(2).fit(np.concatenate(own[:2]))
        expected = np.stack([fitted.transform(one) for one in own])
        signs = np.sign((points[place] * expected).sum(axis=(0, 1)))
        widest = np.ptp(expected, axis=(0, 1)).max()
        np.testing.assert_allclose(points[place], signs * expected, atol=widest / 2**15)
        np.testing.assert_allclose(record["explained"][place], fitted.explained_variance_ratio_, rtol=1e-5)
        # The other blocks are turned to agree with the last, which is as scikit-learn turns it.
        if place == len(BLOCKS) - 1:
            assert signs.tolist() == [1, 1]
    for first, second in pairwise(points):
        products = (first - first.mean(axis=(0, 1))) * (second - second.mean(axis=(0, 1)))
        assert (products.sum(axis=(0, 1)) > 0).all()


def test_components_do_not_flip_from_block_to_block() -> None:
    found = StateMap(sets=(), groups=(TEXT,), total=5)
    chance = np.random.default_rng(3)
    states = chance.normal(size=(40, 3)) * [5, 2, 1]
    # Turned round, the states have the same components with the signs that scikit-learn prefers.
    for block, sign in ((2, 1.0), (1, -1.0), (0, 1.0)):
        found.add(block, [{TEXT: (sign * states).astype(np.float32)}])
        points = found.numbers[block] * np.array(found.step[block]) + found.low[block]
        np.testing.assert_allclose(points[0], PCA(2).fit_transform(states), atol=1e-3)


def test_all_data_sets_of_a_split_share_a_map_of_the_groups_that_each_has(
    stored: tuple[Found, dict[str, States]],
) -> None:
    found, states = stored
    together, *alone = make_maps(find_sets(found), measure=ignore)
    assert [[one.dataset for one in made.sets] for made in (together, *alone)] == [
        ["one", "two"],
        ["one"],
        ["two"],
    ]
    record, points = unpack(together)
    assert [group["condition"] for group in record["groups"]] == ["query", "image"]
    assert record["total"] == 50
    own = np.concatenate([states[name][TEXT][:, -1] for name in ("one", "two")])
    others = np.concatenate([states[name][IMAGE][:, -1] for name in ("one", "two")])
    expected = PCA(2).fit(np.concatenate([own, others]).astype(np.float64)).transform(own)
    np.testing.assert_allclose(points[-1, 0], expected, atol=1e-3)


def test_a_page_has_no_more_points_than_stated_and_the_same_samples_in_each_group(
    stored: tuple[Found, dict[str, States]],
) -> None:
    found, _ = stored
    for most in (300, 500, 10_000):
        maps = make_maps(find_sets(found), measure=ignore, most=most)
        sizes = [sum(one.size for one in made.numbers.values()) // 2 for made in maps]
        assert sum(sizes) <= most
    assert sum(sizes) == 50 * 2 * 3 + 30 * 3 * 3 + 20 * 2 * 3
    few = make_maps(find_sets(found), measure=ignore, most=300)
    assert {one for made in few[:1] for own in made.sets for one in own.sample_ids} <= {
        one for made in few[1:] for own in made.sets for one in own.sample_ids
    }


def test_thirty_two_blocks_of_two_thousand_samples_in_six_groups_take_less_than_three_megabytes() -> None:
    groups = [
        StateGroup("query"),
        *(StateGroup("image", "CMRM", alpha) for alpha in (0.1, 0.2, 0.3, 0.4, 0.5)),
    ]
    sets = StateSet(
        model="m",
        dataset="d",
        split="target",
        groups={},
        blocks=range(32),
        common=(),
        sample_ids=[str(n) for n in range(2000)],
    )
    made = StateMap(sets=[sets], groups=groups, total=2000)
    chance = np.random.default_rng(0)
    for block in range(32):
        made.numbers[block] = chance.integers(2**16, size=(6, 2000, 2), dtype=np.uint16)
        made.low[block] = made.step[block] = made.explained[block] = [0.123456789, 1.23456789]
    assert len(write_maps([made])) < 3_000_000


def test_components_are_fitted_on_a_thousand_states_and_the_rest_is_projected_on_them() -> None:
    chance = np.random.default_rng(4)
    text, image = (chance.normal(size=(1200, 9)) * [9, 4, 1, 1, 1, 1, 1, 1, 1] for _ in range(2))
    made = StateMap(sets=(), groups=(TEXT, IMAGE), total=1200)
    made.add(0, [{TEXT: text.astype(np.float32), IMAGE: image.astype(np.float32)}])
    points = made.numbers[0] * np.array(made.step[0]) + made.low[0]
    rows = np.sort(np.random.default_rng(0).permutation(1200)[:500])
    fitted = PCA(2).fit(np.concatenate([text[rows], image[rows]]))
    np.testing.assert_allclose(points, [fitted.transform(one) for one in (text, image)], atol=2e-3)
    np.testing.assert_allclose(made.explained[0], fitted.explained_variance_ratio_, rtol=1e-5)


def test_states_of_text_alone_and_of_other_samples_make_no_map(tmp_path: Path) -> None:
    first, _ = write_states(tmp_path, "one", ["a", "b"], groups=(TEXT,), seed=0)
    second, _ = write_states(tmp_path, "two", ["c", "d"], groups=(IMAGE,), seed=0)
    assert find_sets({("m", "one"): {"target": first}}) == []
    assert find_sets({("m", "two"): {"target": second}}) == []
    assert find_sets({("m", "both"): {"target": {**first, **second}}}) == []


def test_states_that_are_all_the_same_lie_on_one_spot() -> None:
    made = StateMap(sets=(), groups=(TEXT, IMAGE), total=3)
    same = np.ones((3, 4), dtype=np.float32)
    made.add(0, [{TEXT: same, IMAGE: same}])
    assert made.explained[0] == [0.0, 0.0]
    assert not made.numbers[0].any()


def test_samples_are_read_from_all_files_in_the_order_that_is_asked(
    stored: tuple[Found, dict[str, States]],
) -> None:
    found, states = stored
    paths = found["m@1", "one"]["target"][IMAGE]
    assert list_samples(paths) == [f"s{number:02}" for number in range(30)]
    read = read_samples(paths, 4, ["s20", "s03", "s29"])
    np.testing.assert_array_equal(read, states["one"][IMAGE][[20, 3, 29], 1])
    with pytest.raises(StoreError, match="no hidden states of s99 at block 4"):
        read_samples(paths, 4, ["s20", "s99"])


def test_measures_of_a_block_are_those_of_its_states(stored: tuple[Found, dict[str, States]]) -> None:
    found, states = stored
    sets = find_sets(found)
    measures = BlockMeasures(wanted=choose_groups(sets))
    make_maps(sets, measure=measures.add)
    (record,) = (
        one
        for one in measures.records
        if (one["dataset"], one["block"], one["intervention"]) == ("one", 4, "CMRM")
    )
    text, before, after = (
        states["one"][group][:, 1].astype(np.float64).mean(axis=0) for group in (TEXT, IMAGE, STEERED)
    )
    shift, moved = before - text, after - before
    along = -moved @ shift / np.linalg.norm(shift)
    across = np.sqrt(moved @ moved - along**2)
    assert record["distance"] == pytest.approx(np.linalg.norm(after - text), rel=1e-6)
    assert record["along"] == pytest.approx(along / np.linalg.norm(shift), rel=1e-6)
    assert record["across"] == pytest.approx(across / np.linalg.norm(shift), rel=1e-4)
    assert record["state"] == pytest.approx(
        np.linalg.norm(states["one"][TEXT][:, 1], axis=1).mean(), rel=1e-6
    )
    # Three groups but text at three blocks.
    assert len(measures.records) == 3 * (2 + 1)


def test_of_the_other_split_only_groups_that_the_shown_one_lacks_are_measured(tmp_path: Path) -> None:
    blank = StateGroup("blank")
    target, _ = write_states(tmp_path, "t", ["a", "b", "c"], groups=(TEXT, IMAGE, STEERED), seed=0)
    anchor, _ = write_states(tmp_path, "a", ["d", "e", "f"], groups=(TEXT, IMAGE, blank), seed=1)
    sets = find_sets({("m", "one"): {"anchor": anchor, "target": target}})
    assert [one.split for one in sets] == ["target", "anchor"]
    assert choose_groups(sets) == {
        ("m", "one", "target"): [IMAGE, STEERED],
        ("m", "one", "anchor"): [blank],
    }


def test_the_figure_has_a_row_for_each_data_set_and_the_numbers_as_a_table(
    stored: tuple[Found, dict[str, States]],
) -> None:
    found, _ = stored
    sets = find_sets(found)
    measures = BlockMeasures(wanted=choose_groups(sets))
    make_maps(sets, measure=measures.add)
    (drawn,) = draw_state_blocks(measures.records)
    assert drawn.name == "states-blocks-1"
    assert len(drawn.data) == len(measures.records)
    axes = figure.Figure().subplots(drawn.rows, drawn.columns, squeeze=False).tolist()
    drawn.draw(axes)
    assert [row[0].get_ylabel() for row in axes] == ["one", "two"]
    moved = axes[0][3].get_lines()
    expected = [
        100 * one["along"]
        for one in sorted(measures.records, key=lambda one: one["block"])
        if one["along"] is not None
    ]
    assert list(moved[0].get_ydata()) == pytest.approx(expected)
    assert list(moved[0].get_xdata()) == list(BLOCKS)
    assert axes[1][3].get_lines() == []
