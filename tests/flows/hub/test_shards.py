"""Parquet files of bounded size in row groups of bounded memory, with every row in its place."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.hub import shards
from flows.hub.shards import ShardWriter
from flows.hub.tables import IMAGE

SCHEMA = pa.schema([("n", pa.int64()), ("image", IMAGE)])


def make_batch(start, rows, image):
    numbers = pa.array(range(start, start + rows))
    return pa.RecordBatch.from_arrays(
        [numbers, pa.array([{"bytes": image, "path": "a.png"}] * rows, IMAGE)], schema=SCHEMA
    )


def test_files_and_row_groups_end_where_they_are_full_and_hold_each_row_once(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "GROUP_BYTES", 40_000)
    generator = np.random.default_rng(0)
    with ShardWriter(tmp_path / "out", SCHEMA, file_bytes=60_000) as writer:
        for start in range(0, 100, 5):
            writer.write(make_batch(start, 5, generator.bytes(4000)))
    paths = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in paths] == [f"{number:05}.parquet" for number in range(len(paths))]
    assert len(paths) == writer.files > 1
    assert max(path.stat().st_size for path in paths) < 80_000
    numbers = []
    for path in paths:
        with pq.ParquetFile(path) as file:
            groups = [file.metadata.row_group(place).num_rows for place in range(file.num_row_groups)]
            # Two batches of 20 kB reach 40 kB.
            assert set(groups) == {10}
            assert json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]["image"] == {
                "_type": "Image"
            }
            numbers += file.read()["n"].to_pylist()
    assert numbers == list(range(100))
    assert writer.rows == 100


def test_an_image_of_many_rows_is_stored_once_in_a_row_group(tmp_path):
    # Larger than what zstd looks back upon at this level.
    image = np.random.default_rng(0).bytes(3_000_000)
    with ShardWriter(tmp_path / "out", SCHEMA) as writer:
        writer.write(make_batch(0, 8, image))
    (path,) = (tmp_path / "out").iterdir()
    assert path.stat().st_size < 2 * len(image)
    assert pq.read_table(path)["image"].to_pylist() == [{"bytes": image, "path": "a.png"}] * 8


def test_a_table_without_rows_is_a_file_with_its_columns(tmp_path):
    with ShardWriter(tmp_path / "out", SCHEMA) as writer:
        pass
    assert (writer.rows, writer.files) == (0, 1)
    table = pq.read_table(tmp_path / "out" / "00000.parquet")
    assert (table.num_rows, table.schema.names) == (0, ["n", "image"])


def test_what_is_left_by_an_exception_is_no_parquet(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "GROUP_ROWS", 5)
    with pytest.raises(ValueError, match="stop"), ShardWriter(tmp_path / "out", SCHEMA) as writer:  # noqa: PT012 - the writer sees the error
        writer.write(make_batch(0, 5, b"x"))
        raise ValueError("stop")
    (path,) = (tmp_path / "out").iterdir()
    with pytest.raises(pa.ArrowInvalid):
        pq.read_table(path)
