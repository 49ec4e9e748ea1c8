"""Vectors that are written without Arrow are what Arrow, DuckDB and polars read, to the bit."""

from __future__ import annotations

import io
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import StoreError
from storage.shards.hidden_states import hidden_states_table, list_blocks, read_block
from storage.tables.parquet import TableWriter, read_parquet, to_parquet, write_parquet
from storage.tables.schemas import KINDS
from storage.tables.thrift import read_struct, write_struct

NUMBERS = ["float16", "float32", "bfloat16"]
WIDTH = 4096


def make_vectors(numbers: str, shape: tuple[int, int, int]) -> np.ndarray:
    """Standard normal numbers, with zeros of both signs, the largest and the smallest; bfloat16 as float32."""
    kind = np.dtype("float16" if numbers == "float16" else "float32")
    vectors = np.random.default_rng(3).standard_normal(shape).astype(kind)
    odd = [0.0, -0.0, np.finfo(kind).max, -np.finfo(kind).max, np.finfo(kind).smallest_subnormal]
    vectors.reshape(-1)[: len(odd)] = odd[: vectors.size]
    return (vectors.view(np.uint32) & 0xFFFF0000).view(np.float32) if numbers == "bfloat16" else vectors


def name_samples(count: int) -> list[str]:
    return [f"{number * 7919 % 10007:05d}" for number in range(count)]


def make_table(vectors: np.ndarray) -> pa.Table:
    return hidden_states_table(
        model="m",
        dataset="d",
        sample_ids=name_samples(len(vectors)),
        condition="image",
        blocks=range(vectors.shape[1]),
        vectors=vectors,
    )


def write(folder: Path, vectors: np.ndarray) -> Path:
    write_parquet(make_table(vectors), "hidden_states", folder / "states.parquet")
    return folder / "states.parquet"


def expect(vectors: np.ndarray, block: int) -> np.ndarray:
    """The vectors of a block, by sample id, as whole numbers that have their bits."""
    chosen = np.ascontiguousarray(vectors[np.argsort(name_samples(len(vectors))), block])
    return chosen.view(f"u{chosen.itemsize}")


def to_bits(column: pa.ChunkedArray, width: int) -> np.ndarray:
    numbers = np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks])
    return numbers.reshape(-1, width).view(f"u{numbers.itemsize}")


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("shape", [(150, 2, WIDTH), (3, 2, 5), (1, 1, 1)])
def test_arrow_duckdb_and_polars_read_the_same_bits(tmp_path, numbers, shape):
    vectors = make_vectors(numbers, shape)
    place = write(tmp_path, vectors)
    by_sample = f"SELECT vector FROM read_parquet('{place}') WHERE block = $block ORDER BY sample_id"
    for block in range(shape[1]):
        read = pq.read_table(place, filters=[("block", "=", block)]).sort_by("sample_id")
        assert np.array_equal(to_bits(read["vector"], shape[2]), expect(vectors, block))
        found = duckdb.sql(by_sample, params={"block": block}).to_arrow_table()
        # DuckDB makes float32 of float16, which loses nothing.
        assert np.array_equal(to_bits(found["vector"], shape[2]), expect(vectors.astype(np.float32), block))
        frame = pl.read_parquet(place).filter(pl.col("block") == block).sort("sample_id")
        numbers_read = frame["vector"].explode().to_numpy().astype(vectors.dtype).reshape(-1, shape[2])
        assert np.array_equal(numbers_read.view(f"u{vectors.itemsize}"), expect(vectors, block))


@pytest.mark.parametrize("numbers", NUMBERS)
def test_the_file_says_of_itself_what_arrow_would_have_written(tmp_path, numbers):
    table = make_table(make_vectors(numbers, (150, 2, WIDTH))).drop_columns(["model", "condition"])
    table = table.sort_by([("block", "ascending"), ("sample_id", "ascending")])
    ours = pq.ParquetFile(write(tmp_path, make_vectors(numbers, (150, 2, WIDTH))))
    pq.write_table(table, tmp_path / "arrow.parquet", row_group_size=ours.metadata.row_group(0).num_rows)
    theirs = pq.ParquetFile(tmp_path / "arrow.parquet")
    assert ours.schema_arrow.equals(theirs.schema_arrow, check_metadata=False)
    assert [field.metadata for field in ours.schema_arrow] == [
        field.metadata for field in theirs.schema_arrow
    ]
    # The first line has the object's address.
    assert str(ours.schema).splitlines()[1:] == str(theirs.schema).splitlines()[1:]
    for number in range(ours.num_row_groups):
        group = ours.metadata.row_group(number)
        columns = [group.column(place) for place in range(group.num_columns)]
        assert group.total_byte_size == sum(column.total_uncompressed_size for column in columns)
        vectors = columns[-1]
        assert (vectors.path_in_schema, vectors.num_values) == ("vector.list.element", group.num_rows * WIDTH)
        assert vectors.statistics is None
    assert ours.metadata.num_rows == theirs.metadata.num_rows == 300


@pytest.mark.parametrize("numbers", NUMBERS)
def test_a_flipped_bit_in_any_page_of_vectors_is_noticed(tmp_path, numbers):
    place = write(tmp_path, make_vectors(numbers, (150, 2, WIDTH)))
    whole = place.read_bytes()
    assert read_parquet(place).num_rows == 300
    metadata = pq.ParquetFile(place).metadata
    for group in range(metadata.num_row_groups):
        column = metadata.row_group(group).column(6)
        damaged = bytearray(whole)
        damaged[column.data_page_offset + column.total_compressed_size - 1 - group] ^= 16
        with pytest.raises(StoreError, match="CRC checksum verification failed"):
            read_parquet(bytes(damaged))


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("shape", [(150, 2, WIDTH), (3, 2, 5), (1, 1, 1)])
def test_a_block_is_read_to_the_bit_without_arrow(tmp_path, monkeypatch, numbers, shape):
    vectors = make_vectors(numbers, shape)
    place = write(tmp_path, vectors)
    read = pq.ParquetFile.read_row_groups
    asked = []

    def note(self, groups, columns=None, **options):
        asked.append(columns)
        return read(self, groups, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", note)
    for block in range(shape[1]):
        states = read_block([place], block)
        chosen = states.choose(sorted(name_samples(shape[0])))[:, 0]
        assert chosen.dtype == vectors.dtype
        assert np.array_equal(chosen.view(f"u{chosen.itemsize}"), expect(vectors, block))
    assert len(asked) == shape[1]
    assert all(columns is not None and "vector" not in columns for columns in asked)


@pytest.mark.parametrize("numbers", NUMBERS)
def test_damage_anywhere_in_the_vectors_of_a_block_is_noticed_when_it_is_read(tmp_path, numbers):
    place = write(tmp_path, make_vectors(numbers, (20, 1, 64)))
    whole = place.read_bytes()
    column = pq.ParquetFile(place).metadata.row_group(0).column(6)
    sound = read_block([place], 0).vectors.tobytes()
    start, size = column.data_page_offset, column.total_compressed_size
    for offset in (*range(start, start + 40), *range(start + 40, start + size, 101), start + size - 1):
        damaged = bytearray(whole)
        damaged[offset] ^= 1
        place.write_bytes(damaged)
        # A bit of the header may say nothing of the numbers, such as that of a level's encoding.
        try:
            assert read_block([place], 0).vectors.tobytes() == sound
        except StoreError:
            continue
        assert offset < start + 40
    place.write_bytes(whole)
    assert read_block([place], 0).vectors.tobytes() == sound


def test_bloom_filters_lie_where_the_footer_says(tmp_path):
    place = write(tmp_path, make_vectors("float16", (150, 2, WIDTH)))
    probe = "SELECT bool_and(bloom_filter_excludes) FROM parquet_bloom_probe($place, 'sample_id', $sample)"
    outcomes = {
        sample: duckdb.execute(probe, {"place": str(place), "sample": sample}).fetchall()
        for sample in (*name_samples(150), "no such sample")
    }
    assert outcomes.pop("no such sample") == [(True,)]
    assert all(found == [(False,)] for found in outcomes.values())


def test_chunks_of_a_file_are_one_after_the_other():
    vectors = make_vectors("float32", (6, 2, 8))
    file = io.BytesIO()
    with TableWriter("hidden_states", file) as writer:
        for start in range(0, 6, 2):
            writer.write(make_table(vectors).filter(pa.array(np.repeat(np.arange(6) // 2 * 2 == start, 2))))
    read = read_parquet(file.getvalue()).sort_by("sample_id")
    for block in range(2):
        chosen = read.filter(pa.array(read["block"].to_numpy() == block))
        assert np.array_equal(to_bits(chosen["vector"], 8), expect(vectors, block))


def test_files_of_earlier_releases_are_read(tmp_path):
    """These wrote the vectors through Arrow: float16 plain, float32 split by bytes and compressed."""
    for numbers in NUMBERS:
        vectors = make_vectors(numbers, (150, 2, WIDTH))
        table = make_table(vectors).drop_columns(["model", "condition"])
        table = table.sort_by([("block", "ascending"), ("sample_id", "ascending")])
        single = vectors.dtype == np.float32
        others = [name for name in table.column_names if name != "vector"]
        options = {
            "compression": {
                **dict.fromkeys(others, "zstd"),
                "vector.list.element": "zstd" if single else "none",
            },
            "use_byte_stream_split": ["vector.list.element"] if single else [],
            "use_dictionary": ["dataset", "sample_id", "position", "intervention"],
            "write_statistics": others,
            "write_page_checksum": True,
        }
        stored = table.replace_schema_metadata({"cmrm.schema_version": "3", "cmrm.kind": "hidden_states"})
        place = tmp_path / f"{numbers}.parquet"
        with pq.ParquetWriter(place, stored.schema, **options) as writer:
            for block in range(2):
                writer.write_table(stored.slice(150 * block, 150), row_group_size=64)
        assert list_blocks([place]) == [0, 1]
        for block in range(2):
            read = read_block([place], block)
            found = read.choose(sorted(read.sample_ids))[:, 0]
            assert np.array_equal(found.view(f"u{found.itemsize}"), expect(vectors, block))


@pytest.mark.parametrize("kind", ["hidden_states", "image_vectors"])
def test_a_file_without_rows_has_its_columns(kind):
    whole = KINDS[kind].schema
    read = read_parquet(to_parquet(whole.empty_table(), kind))
    assert read.num_rows == 0
    assert read.column_names == [name for name in whole.names if name not in KINDS[kind].partitions]


def test_vectors_of_several_widths_in_one_file_are_refused():
    columns = {name: pa.array(["x", "y"]) for name in ("model", "image", "image_digest")}
    vectors = pa.array([[1.0, 2.0], [3.0]], pa.list_(pa.float32()))
    with pytest.raises(StoreError, match="vectors of several widths"):
        to_parquet(pa.table({**columns, "vector": vectors}), "image_vectors")


@pytest.mark.parametrize("first", ["float16", "float32"])
def test_vectors_of_two_types_in_one_file_are_refused(first):
    tables = {numbers: make_table(make_vectors(numbers, (3, 2, 8))) for numbers in ("float16", "float32")}
    writer = TableWriter("hidden_states", io.BytesIO())
    writer.write(tables.pop(first))
    with pytest.raises(StoreError, match="convert them to one type"):
        writer.write(*tables.values())
    writer.abandon()


def test_a_file_whose_vectors_could_not_be_encoded_is_none_and_the_fault_is_told(tmp_path, monkeypatch):
    def run_out_of_memory(*_):
        raise MemoryError("vectors")

    monkeypatch.setattr("storage.tables.vector_file.encode_vectors", run_out_of_memory)
    with pytest.raises(MemoryError, match="vectors"):
        write(tmp_path, make_vectors("float32", (3, 2, 8)))
    with pytest.raises(StoreError, match="cannot read"):
        read_parquet(tmp_path / "states.parquet")


def test_thrift_writes_what_it_has_read():
    file = io.BytesIO()
    table = pa.table(
        {"a": ["x", None] * 40, "b": [1.5, -2.0] * 40, "c": [[1, 2], []] * 40, "d": [True, False] * 40}
    )
    pq.write_table(table, file, row_group_size=4)
    data = file.getvalue()
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
    assert write_struct(read_struct(footer)) == footer
    with pytest.raises(IndexError):
        read_struct(footer[:-1])
    with pytest.raises(ValueError, match="type 7"):
        read_struct(b"\x17")
