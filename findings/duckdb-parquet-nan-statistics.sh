#!/usr/bin/env bash
# duckdb 2.0.0, pyarrow 26.0.1, numpy 2.4.6, Python 3.11 (Linux x86-64).
#
# One would guess: a query of a Parquet file gives the rows that it gives of the same table in memory. The format says that the
# smallest and largest value which a file keeps of a column leave NaN out, so a reader that sees them knows nothing of NaN.
# Seen: from a file that pyarrow wrote with its default settings, `WHERE isnan(x)` finds no row, and `WHERE NOT isnan(x)` lets
# the row with NaN through, so that a sum behind it is NaN; `max` is the largest number, where that of a table is NaN. The
# same condition as `FILTER` of an aggregate counts right. With `write_statistics=False`, or written by duckdb itself, all agree.
# (Of comparisons, duckdb's issue 25521 says the same.)
#
# Output seen, for a column of NaN, 2 and -3:
#   table: isnan 1, not isnan 2, sum -1.0, above five 1, max nan, filter 1
#   pyarrow's file: isnan 0, not isnan 3, sum nan, above five 0, max 2.0, filter 1
#   without statistics: isnan 1, not isnan 2, sum -1.0, above five 1, max nan, filter 1
#   duckdb's file: isnan 1, not isnan 2, sum -1.0, above five 1, max nan, filter 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==2.0.0 pyarrow==26.0.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>warnings.txt <<'PYTHON' || { tail -3 warnings.txt; echo "this has changed"; exit 1; }
import sys

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

ASKED = {
    "isnan": "SELECT count(*) FROM {} WHERE isnan(x)",
    "not isnan": "SELECT count(*) FROM {} WHERE NOT isnan(x)",
    "sum": "SELECT sum(x) FROM {} WHERE NOT isnan(x)",
    "above five": "SELECT count(*) FROM {} WHERE x > 5",
    "max": "SELECT max(x) FROM {}",
    "filter": "SELECT count(*) FILTER (isnan(x)) FROM {}",
}
in_memory = pa.table({"x": pa.array([float("nan"), 2.0, -3.0])})
pq.write_table(in_memory, "pyarrow.parquet")
pq.write_table(in_memory, "bare.parquet", write_statistics=False)
duckdb.sql("COPY (FROM in_memory) TO 'duckdb.parquet'")


def ask(name, source):
    given = {word: duckdb.sql(query.format(source)).fetchall()[0][0] for word, query in ASKED.items()}
    return f"{name}: " + ", ".join(f"{word} {answer}" for word, answer in given.items())


told = [
    ask("table", "in_memory"),
    ask("pyarrow's file", "'pyarrow.parquet'"),
    ask("without statistics", "'bare.parquet'"),
    ask("duckdb's file", "'duckdb.parquet'"),
]
print("\n".join(told))
right = "isnan 1, not isnan 2, sum -1.0, above five 1, max nan, filter 1"
sys.exit(
    told
    != [
        f"table: {right}",
        "pyarrow's file: isnan 0, not isnan 3, sum nan, above five 0, max 2.0, filter 1",
        f"without statistics: {right}",
        f"duckdb's file: {right}",
    ]
)
PYTHON
