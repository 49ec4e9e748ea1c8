"""Time five queries for the mean vector of a group in DuckDB: seconds and peak memory, one process each.

python benchmarks/centroid.py [ROWS WIDTH GROUPS]
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from duckdb.func import PythonUDFType

from storage.sql.macros import MACROS
from storage.tables.schemas import HALF_VECTOR

QUERIES = {
    "reading alone": "SELECT g, sum(norm(vector)) FROM states GROUP BY g",
    "the macro centroid": "SELECT g, centroid(vector) FROM states GROUP BY g",
    "list_reduce": (
        "SELECT g, list_transform(list_reduce(list(vector::DOUBLE[]), lambda a, b: list_transform(a, lambda x, i: "
        "x + b[i])), lambda x: x / count(*)) FROM states GROUP BY g"
    ),
    "unnest in a subquery": (
        "SELECT g, (SELECT list(m ORDER BY i) FROM (SELECT i, avg(x::DOUBLE) AS m FROM (SELECT unnest(v) AS x, "
        "generate_subscripts(v, 1) AS i FROM (SELECT unnest(list(states.vector)) AS v)) GROUP BY i)) "
        "FROM states GROUP BY g"
    ),
    "unnest, no aggregate": (
        "SELECT g, list(m ORDER BY i) FROM (SELECT g, i, avg(x::DOUBLE) AS m FROM (SELECT g, unnest(vector) AS x, "
        "generate_subscripts(vector, 1) AS i FROM states) GROUP BY g, i) GROUP BY g"
    ),
    "Arrow and NumPy": "SELECT g, numpy_mean(list(vector)) FROM states GROUP BY g",
}


def main(rows: int = 20_000, width: int = 4096, groups: int = 1) -> None:
    """Write the states once, then time each query."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "states.parquet"
        vectors = np.random.default_rng(0).standard_normal((rows, width)).astype(np.float16)
        offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * np.int32(width))
        column = pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1)), type=HALF_VECTOR)
        pq.write_table(pa.table({"g": np.arange(rows) % groups, "vector": column}), file, compression="none")
        print(f"{rows} x {width}, {groups} groups")
        for name in QUERIES:
            subprocess.run([sys.executable, __file__, "--one", str(file), name], check=True)


def time_one(file: str, name: str) -> None:
    """Time one query in this process, and print its seconds and peak memory."""
    sql = duckdb.connect()
    sql.create_function("numpy_mean", _mean, ["FLOAT[][]"], "DOUBLE[]", type=PythonUDFType.ARROW)
    for macro in MACROS:
        if macro.name in {"norm", "centroid"}:
            sql.execute(f"CREATE MACRO {macro.call} AS {macro.body}")
    sql.execute(f"CREATE VIEW states AS SELECT g, vector::FLOAT[] AS vector FROM read_parquet('{file}')")  # noqa: S608
    start = time.perf_counter()
    sql.execute(QUERIES[name]).fetchnumpy()
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]
    print(f"{name:22} {seconds:6.2f} s {peak:8.0f} MB", flush=True)


def _mean(groups: pa.ChunkedArray) -> pa.Array:
    means = []
    for group in groups:
        vectors = group.values
        matrix = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), -1)
        means.append(matrix.mean(axis=0, dtype=np.float64))
    return pa.array(means, pa.list_(pa.float64()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        time_one(*sys.argv[2:])
    else:
        main(*map(int, sys.argv[1:]))
