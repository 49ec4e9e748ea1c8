"""Rows of a data set: arms in the order of the report, and images that are read in pieces of bounded size."""

from __future__ import annotations

import hashlib

import duckdb
import pyarrow as pa

from flows.hub import rows as rows_module
from flows.hub.images import RunImages
from flows.hub.rows import order_arms
from flows.hub.tables import IMAGE
from tasks.report.outcomes import Arm


def test_arms_are_ordered_as_in_the_report_and_unknown_ones_come_last():
    arms = [
        Arm("tiny-b@1", "query"),
        Arm("tiny-b@1", "image"),
        Arm("tiny-b@1", "image", "z'; DROP TABLE r; --", 0.5),
        Arm("tiny-b@1", "image", "z'; DROP TABLE r; --", 1.0),
        Arm("tiny-b@1", "image", "a"),
        Arm("tiny-a@1", "query"),
    ]
    others = [Arm("tiny-a@1", "image", "new", 1.0), Arm("other@1", "query")]
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE r (model TEXT, condition TEXT, intervention TEXT, alpha DOUBLE)")
        connection.executemany("INSERT INTO r VALUES (?, ?, ?, ?)", [*reversed([*arms, *others])])
        found = connection.execute(f"FROM r ORDER BY {order_arms(arms)}").fetchall()
    assert found == [tuple(arm) for arm in (*arms, *others)]


def test_a_batch_is_cut_where_its_images_would_take_too_much_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "IMAGE_BYTES", 1000)
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(bytes([number]) * 400)
    digests = [hashlib.sha256((tmp_path / f"{number}.png").read_bytes()).hexdigest() for number in range(5)]
    names = [f"{number}.png" for number in range(5)]
    schema = pa.schema([("dataset", pa.string()), ("image", IMAGE), ("image_digest", pa.string())])
    named = {
        "dataset": pa.array(["mine"] * 5),
        "image": pa.array([*names[:4], None]),
        "image_digest": pa.array(digests),
    }
    pieces = [*rows_module._fill_images(named, schema, RunImages({"mine": tmp_path}))]
    assert [len(piece["dataset"]) for piece in pieces] == [3, 2]
    cells = [cell for piece in pieces for cell in piece["image"].to_pylist()]
    assert [cell and cell["bytes"][0] for cell in cells] == [0, 1, 2, 3, None]
    assert [digest for piece in pieces for digest in piece["image_digest"].to_pylist()] == digests
