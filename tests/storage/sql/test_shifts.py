"""The two readers of a Δ file, `cmrm.load_shift` and the SQL view, which may not import each other, read the same."""

from __future__ import annotations

import torch

from cmrm.steering.shift import Shift, load_shift, serialize_shift
from storage.records.hashing import stage_key
from storage.sql.database import connect

DELTA = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
MADE_FROM = {"model": "m@1", "image": "blank", "note": "Δ"}


def test_sql_and_the_python_api_read_the_same_shift(any_store):
    shift = Shift(delta=DELTA, blocks=(1, 5), count=7, made_from=MADE_FROM)
    key = stage_key("shift", {})
    manifest = any_store.commit("shift", key, {f"shifts/{key}.safetensors": serialize_shift(shift)}, rows={})
    loaded = load_shift(any_store.local_path(manifest.path("shifts")))
    with connect(any_store.url) as sql:
        rows = sql.execute(
            "SELECT block, vector, count, image, metadata FROM shifts ORDER BY block"
        ).fetchall()
    assert loaded.blocks == tuple(row[0] for row in rows) == (1, 5)
    assert torch.equal(loaded.delta, DELTA)
    assert torch.equal(torch.tensor([row[1] for row in rows]), DELTA)
    assert {row[2:4] for row in rows} == {(7, "blank")}
    assert (loaded.count, loaded.made_from["image"]) == (7, "blank")
    for row in rows:
        assert MADE_FROM.items() <= row[4].items()
        assert loaded.made_from.items() <= row[4].items()
