"""Times in nanoseconds of any Parquet file, read without pandas and as pandas writes them."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.tables.parquet import iterate_rows

TIMES = [0, 1_700_000_000_000_000_000, 1_700_000_000_123_456_000, 1_700_000_000_123_456_789, None]


def write(path, column):
    pq.write_table(pa.table({"question": ["q"] * len(column), "seen": column}), path)
    return path


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_a_time_is_written_as_pandas_writes_it_whatever_stands_beside_it(tmp_path, zone):
    kind = pa.timestamp("ns", zone)
    for times in (TIMES, TIMES[:3], TIMES[3:]):
        path = write(tmp_path / "a.parquet", pa.array(times, pa.int64()).cast(kind))
        texts = [None if row["seen"] is None else str(row["seen"]) for row in iterate_rows(path)]
        expected = [
            None if time is None else str(pd.Timestamp(time, tz="UTC").tz_convert(zone)) for time in times
        ]
        assert texts == expected


def test_times_of_day_and_times_inside_lists_objects_and_categories_are_read(tmp_path):
    day = pa.array([1_000, 1_001], pa.time64("ns"))
    assert [str(row["seen"]) for row in iterate_rows(write(tmp_path / "a.parquet", day))] == [
        "00:00:00.000001",
        "00:00:00.000001001",
    ]
    for time, text in ((TIMES[2], "22:13:20.123456"), (TIMES[3], "22:13:20.123456789")):
        inside = pa.array([[{"at": time}], None], pa.list_(pa.struct([("at", pa.int64())])))
        column = inside.cast(pa.list_(pa.struct([("at", pa.timestamp("ns"))])))
        first, second = iterate_rows(write(tmp_path / "b.parquet", column))
        assert (str(first["seen"][0]["at"]), second["seen"]) == (f"2023-11-14 {text}", None)
    categories = pa.array(TIMES, pa.int64()).cast(pa.timestamp("ns")).dictionary_encode()
    read = [row["seen"] for row in iterate_rows(write(tmp_path / "c.parquet", categories))]
    assert str(read[3]) == "2023-11-14 22:13:20.123456789"


PROGRAM = """
import sys

class NoPandas:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "pandas":
            raise ImportError(name)

sys.meta_path.insert(0, NoPandas())
from pathlib import Path
from storage.tables.parquet import iterate_rows
print([str(row["seen"]) for row in iterate_rows(Path(sys.argv[1]))], "pandas" in sys.modules)
"""


def test_a_column_of_nanoseconds_needs_no_pandas(tmp_path):
    path = write(tmp_path / "a.parquet", pa.array(TIMES[2:4], pa.int64()).cast(pa.timestamp("ns")))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['2023-11-14 22:13:20.123456', '2023-11-14 22:13:20.123456789'] False"
