"""A small store with something in every view, for tests of SQL."""

from __future__ import annotations

import numpy as np
import safetensors.numpy

from storage.records.hashing import stage_key
from storage.shards.hidden_states import hidden_states_table
from storage.store import Store
from storage.tables.arrow import from_rows, table_path
from storage.tables.parquet import to_parquet

MODEL = "llava-hf/llava=1.5 'x'%"
VECTORS = np.random.default_rng(0).standard_normal((6, 3, 4)).astype(np.float16)
VIEWS = ["samples", "hidden_states", "shifts", "responses", "judgements", "quarantine", "runs", "comparisons"]
ODD = "nul \0, 'quote', \"double\", 👩‍👩‍👧, " + "long " * 10_000


def commit_states(store: Store, condition: str, *, dtype: type = np.float16) -> str:
    key = stage_key("embed", {"condition": condition})
    table = hidden_states_table(
        model=MODEL,
        dataset="vlsafe",
        sample_ids=[f"s{i}" for i in range(6)],
        condition=condition,
        blocks=[0, 4, 7],
        vectors=VECTORS.astype(dtype),
    )
    path = table_path("hidden_states", key, model=MODEL, condition=condition)
    store.commit("embed", key, {path: to_parquet(table, "hidden_states")})
    return key


def commit_rows(store: Store, kind: str, rows: list[dict]) -> str:
    key = stage_key("some", {"kind": kind, "rows": len(rows)})
    store.commit("some", key, {table_path(kind, key): to_parquet(from_rows(rows, kind), kind)})
    return key


def response(sample_id: str, answer: str, alpha: float | None = None) -> dict:
    return {
        "model": MODEL,
        "dataset": "vlsafe",
        "sample_id": sample_id,
        "condition": "image",
        "intervention": "" if alpha is None else "cmrm",
        "alpha": alpha,
        "answer": answer,
        "answer_digest": str(hash(answer)),
    }


def commit_shift(store: Store, tensors: dict, metadata: dict[str, str], *, name: str = "shift") -> str:
    key = stage_key(name, {})
    store.commit("shift", key, {f"shifts/{key}.safetensors": safetensors.numpy.save(tensors, metadata)})
    return key


def fill(store: Store) -> Store:
    key = commit_states(store, "image")
    commit_states(store, "query", dtype=np.float32)
    commit_rows(store, "responses", [response("s0", "I cannot."), response("s1", ODD, 0.5)])
    commit_shift(
        store,
        {"delta": np.eye(3, 4, dtype=np.float32), "blocks": np.array([0, 4, 7])},
        {"model": MODEL, "direction": "corrupted minus text", "count": "96", "image": "blank", "note": ODD},
    )
    store.write_run("r1", {"model": MODEL, "status": "done", "keys": [key], "summary": {"unsafe": 0.03}})
    store.write_run("r2", {"model": {"id": "m"}, "keys": [], "created_at": "nonsense"})
    return store
