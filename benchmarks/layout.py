"""Time Parquet layouts of hidden states: row group size, Bloom filters, encodings.

    python benchmarks/layout.py    # about two minutes on two cores; prints the table

Four files of 1,024 samples x 32 blocks x 4,096 numbers (1 GB of float16), ids in no order, read by DuckDB alone, warm;
medians. Numbers are float16, or float32 as a model made them that computes in bfloat16 or in float32.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import storage.tables.row_groups
from storage.shards.hidden_states import hidden_states_table
from storage.tables.arrow import list_vectors
from storage.tables.parquet import write_parquet

FILES, SAMPLES, BLOCKS, WIDTH = 4, 1024, 32, 4096
REPEATS = 7
MEBIBYTE = 1 << 20


def main() -> None:
    """Write and read each layout and print its line."""
    heading = (
        "numbers",
        "row groups of",
        "Bloom",
        "vectors",
        "write s",
        "on disk MB",
        "one block ms",
        "count ms",
        "one sample ms",
    )
    print(" | ".join(heading))
    for numbers in ("float16", "bfloat16 in float32", "float32"):
        print_line(numbers, MEBIBYTE, None)
    for size in (MEBIBYTE // 4, MEBIBYTE, 4 * MEBIBYTE, 64 * MEBIBYTE):
        print_line("float16", size, {})
    print_line("float16", MEBIBYTE, {"bloom": False})
    for numbers in ("bfloat16 in float32", "float32"):
        print_line(numbers, MEBIBYTE, {})
        for codec, level in (("lz4", None), ("snappy", None), ("zstd", 1)):
            print_line(numbers, MEBIBYTE, {"codec": codec, "level": level, "split": True})


def make_vectors(numbers: str, seed: int) -> np.ndarray:
    """Standard normal states [samples, blocks, width]; bfloat16's are float32's with sixteen bits less."""
    drawn = np.random.default_rng(seed).standard_normal((SAMPLES, BLOCKS, WIDTH), np.float32)
    if numbers == "float16":
        return drawn.astype(np.float16)
    return drawn if numbers == "float32" else (drawn.view(np.uint32) & 0xFFFF0000).view(np.float32)


def print_line(numbers: str, size: int, options: Mapping[str, Any] | None) -> None:
    """Measure a layout that Arrow writes with these options; None is the store's own, by its own writer."""
    folder = Path(tempfile.mkdtemp(prefix="cmrm-layout-"))
    try:
        seconds = write(folder, numbers, size, options)
        on_disk = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        cells = (
            numbers,
            f"{size // 1024} KiB",
            "yes" if options is None or options.get("bloom", True) else "no",
            "the store's" if options is None else options.get("codec", "plain"),
            f"{seconds:.2f}",
            f"{on_disk:.0f}",
            *read(folder),
        )
        print(" | ".join(cells), flush=True)
    finally:
        shutil.rmtree(folder)


def write(folder: Path, numbers: str, size: int, options: Mapping[str, Any] | None) -> float:
    """Write the files; returns the seconds without generating the numbers."""
    seconds = 0.0
    own, storage.tables.row_groups.ROW_GROUP_BYTES = storage.tables.row_groups.ROW_GROUP_BYTES, size
    try:
        for number in range(FILES):
            table = hidden_states_table(
                model="m",
                dataset="d",
                sample_ids=[name(number * SAMPLES + row) for row in range(SAMPLES)],
                condition="image",
                blocks=range(BLOCKS),
                vectors=make_vectors(numbers, number),
            )
            began = time.perf_counter()
            if options is None:
                write_parquet(table, "hidden_states", folder / f"{number}.parquet")
            else:
                write_with_arrow(folder / f"{number}.parquet", table, options)
            seconds += time.perf_counter() - began
    finally:
        storage.tables.row_groups.ROW_GROUP_BYTES = own
    return seconds


def write_with_arrow(place: Path, table: pa.Table, options: Mapping[str, Any]) -> None:
    """Write the same row groups by Arrow's own writer, which takes vectors number by number."""
    narrow = table.drop_columns(["model", "condition"])
    field = narrow.schema.field("vector")
    others = [column for column in narrow.column_names if column != "vector"]
    given = {
        "compression": {**dict.fromkeys(others, "none"), "vector.list.element": options.get("codec", "none")},
        "use_byte_stream_split": ["vector.list.element"] if options.get("split") else False,
        "use_dictionary": ["dataset", "position", "intervention"],
        "write_statistics": others,
        "write_page_checksum": True,
    }
    if options.get("level"):
        given["compression_level"] = {"vector.list.element": options["level"]}
    if options.get("bloom", True):
        rows = storage.tables.row_groups.count_rows_of_group(narrow["vector"])
        given["bloom_filter_options"] = {"sample_id": {"ndv": rows, "fpp": 0.01}}
    with pq.ParquetWriter(place, narrow.schema, **given) as writer:
        for group in storage.tables.row_groups.split_into_groups(narrow):
            vectors = list_vectors(group.gather(), field.type)
            writer.write_table(group.others.append_column(field, vectors), row_group_size=len(group.others))


def read(folder: Path) -> tuple[str, str, str]:
    """Milliseconds to read one block, to count its rows, and to read one sample's states; a reason where it fails."""
    sql = duckdb.connect()
    sql.execute("SET parquet_metadata_cache = true")
    columns = "sample_id, block, vector::FLOAT[] AS vector"
    sql.execute(f"CREATE VIEW states AS SELECT {columns} FROM read_parquet('{folder}/*.parquet')")  # noqa: S608 - our own folder
    numbers = iter(np.random.default_rng(0).integers(0, FILES * SAMPLES, 1000).tolist())

    def one_block() -> None:
        sql.execute("SELECT vector FROM states WHERE block = 17").fetchnumpy()

    def count() -> None:
        sql.execute("SELECT count(*) FROM states WHERE block = 17").fetchall()

    def one_sample() -> None:
        found = sql.execute(
            "SELECT block, vector FROM states WHERE sample_id = ?", [name(next(numbers))]
        ).fetchnumpy()
        assert len(found["block"]) == BLOCKS

    try:
        return time_it(one_block), time_it(count), time_it(one_sample)
    except duckdb.Error as error:
        return (f"not read: {str(error).splitlines()[0][:60]}", "", "")
    finally:
        sql.close()


def time_it(do: Callable[[], None]) -> str:
    """Median of a few repeats after a warm-up."""
    do()
    took = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        do()
        took.append(time.perf_counter() - began)
    return f"{1000 * statistics.median(took):.1f}"


def name(number: int) -> str:
    """Make an unsorted id, as in real data sets."""
    return f"{number * 2_654_435_761 % 2**32:08x}"


if __name__ == "__main__":
    main()
