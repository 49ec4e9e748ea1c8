#!/usr/bin/env bash
# pyarrow 26.0.1 with pandas 3.1.1, Python 3.11 (Linux x86-64).
#
# One would guess: pyarrow imports pandas when a pandas object is given or asked for.
# Seen: the first conversion of any Python value (pa.scalar(1), pa.array(["a"]), Table.from_pylist, and so each
# pyarrow.compute call with a plain Python argument) imports pandas if it is installed, to ask whether the value is
# a pandas object. Reading Parquet and converting Arrow to Python values (to_pylist, as_py) does not.
# The import takes longer than pyarrow's own.
#
# Output seen:
#   after reading and to_pylist: pandas imported: False
#   after pa.scalar(1): pandas imported: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1 pandas==3.1.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import pyarrow as pa
import pyarrow.parquet as pq

# Written without a conversion of Python values: Arrow is given the buffers.
column = pa.Array.from_buffers(pa.int64(), 2, [None, pa.py_buffer(bytes([1] + [0] * 7 + [2] + [0] * 7))])
pq.write_table(pa.Table.from_arrays([column], ["a"]), "table.parquet")
with pq.ParquetFile("table.parquet") as file:
    assert file.read()["a"].to_pylist() == [1, 2]
reading = "pandas" in sys.modules
pa.scalar(1)
converting = "pandas" in sys.modules
print(f"pyarrow {pa.__version__}")
print(f"after reading and to_pylist: pandas imported: {reading}")
print(f"after pa.scalar(1): pandas imported: {converting}")
sys.exit(0 if (reading, converting) == (False, True) else "this has changed")
PYTHON
