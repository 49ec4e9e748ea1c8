"""How far images move samples along Δ: the projection of the difference of states, where all of it is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from flows.report.distances import measure_distances
from storage.records.hashing import digest
from storage.shards.hidden_states import hidden_states_table
from storage.store import Store
from storage.tables.arrow import table_path
from storage.tables.parquet import to_parquet

IDS = ["a", "b", "c"]
CHANCE = np.random.default_rng(0)
DELTA = CHANCE.normal(size=(2, 8)).astype(np.float32)
TEXT, IMAGE, STEERED = (CHANCE.normal(size=(3, 2, 8)).astype(np.float32) for _ in range(3))


def commit_shift(store: Store, model: str, delta: Any = DELTA) -> str:
    key = digest(["shift", model, delta.tolist()])
    data = save({"delta": delta, "blocks": np.array([0, 5])}, metadata={"model": model})
    store.commit("shift", key, {f"shifts/{key}.safetensors": data}, provenance={"model": model})
    return key


def commit_states(
    store: Store, condition: str, vectors: Any, *, intervention: str = "", split: str = "target"
) -> str:
    key = digest([condition, intervention, split])
    rows = hidden_states_table(
        model="m",
        dataset="d",
        sample_ids=IDS[: len(vectors)],
        condition=condition,
        blocks=[0, 5],
        vectors=vectors,
    )
    store.commit(
        "embed",
        key,
        {table_path("hidden_states", key, model="m", condition=condition): to_parquet(rows, "hidden_states")},
        content={"condition": condition, "intervention_name": intervention, "position": "last"},
        provenance={"dataset": "d", "split": split},
    )
    return key


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path)


def test_a_distance_is_the_move_at_the_last_block_along_the_first_shift(store: Store) -> None:
    used = {
        "shift": [commit_shift(store, "m"), commit_shift(store, "m", -DELTA)],
        "embed": [
            commit_states(store, "query", TEXT),
            commit_states(store, "image", IMAGE[:2]),
            commit_states(store, "image", STEERED, intervention="CMRM"),
            commit_states(store, "query", STEERED, split="anchor"),
        ],
    }
    found = measure_distances(store, used)
    expected = (IMAGE[:2, 1] - TEXT[:2, 1]) @ DELTA[1] / np.sqrt((DELTA[1] ** 2).sum())
    assert list(found) == [("d", "a"), ("d", "b")]
    assert list(found.values()) == pytest.approx(expected.tolist(), rel=1e-5)


def test_there_is_none_without_states_of_both_or_with_several_models(store: Store) -> None:
    query, image = commit_states(store, "query", TEXT), commit_states(store, "image", IMAGE)
    shift, other = commit_shift(store, "m"), commit_shift(store, "x")
    nothing = commit_shift(store, "m", np.zeros_like(DELTA))
    for used in (
        {},
        {"shift": [shift]},
        {"shift": [shift], "embed": [query]},
        {"shift": [], "embed": [query, image]},
        {"shift": [shift, other], "embed": [query, image]},
        {"shift": [nothing], "embed": [query, image]},
    ):
        assert measure_distances(store, used) == {}
    assert len(measure_distances(store, {"shift": [shift], "embed": [query, image]})) == 3
