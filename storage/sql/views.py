"""The SQL views of a store: one per kind of table, and shifts, runs and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa

from storage.sql.readonly_fs import PROTOCOL
from storage.tables.schemas import KINDS, SINGLE_VECTOR, is_vector

_KEY_COMMENT = "key of the manifest that names the file; a run lists the keys that it used"

SHIFTS = pa.schema(
    [
        pa.field("key", pa.string(), metadata={"comment": _KEY_COMMENT}),
        pa.field("model", pa.string(), metadata={"comment": "model and revision"}),
        pa.field("block", pa.int32(), metadata={"comment": "decoder block, from 0"}),
        pa.field("level", pa.string(), metadata={"comment": "dataset (a mean over anchors) or sample"}),
        pa.field(
            "direction", pa.string(), metadata={"comment": "which way the shift points, as its file says"}
        ),
        pa.field("image", pa.string(), metadata={"comment": "the meaningless image it was measured with"}),
        pa.field(
            "part",
            pa.string(),
            metadata={"comment": "all of the shift, or its part: positions, marks, image"},
        ),
        pa.field("convention", pa.string(), metadata={"comment": "which state was read, as its file says"}),
        pa.field("count", pa.int64(), metadata={"comment": "number of anchors"}),
        pa.field("vector", SINGLE_VECTOR, metadata={"comment": "the shift, as long as the model is wide"}),
        pa.field(
            "metadata", pa.map_(pa.string(), pa.string()), metadata={"comment": "all that the file says"}
        ),
    ]
)
RUNS = pa.schema(
    [
        pa.field("run_id", pa.string(), metadata={"comment": "id of the run"}),
        pa.field("created_at", pa.string(), metadata={"comment": "when it began"}),
        pa.field("model", pa.string(), metadata={"comment": "model and revision"}),
        pa.field("status", pa.string(), metadata={"comment": "how it stands"}),
        pa.field("keys", pa.list_(pa.string()), metadata={"comment": "keys of all manifests that it used"}),
        pa.field("summary", pa.string(), metadata={"comment": "its figures, as JSON"}),
        pa.field("record", pa.string(), metadata={"comment": "all of it, as JSON"}),
    ]
)
COMPARISONS = pa.schema(
    [
        pa.field("key", pa.string(), metadata={"comment": "key of the comparison's manifest"}),
        pa.field("created_at", pa.string(), metadata={"comment": "when it was made"}),
        pa.field(
            "before", pa.string(), metadata={"comment": "key of the earlier run's report, among its keys"}
        ),
        pa.field("after", pa.string(), metadata={"comment": "key of the later run's report, among its keys"}),
        pa.field(
            "regressed", pa.bool_(), metadata={"comment": "whether the later run is worse than allowed"}
        ),
        pa.field("verdict", pa.string(), metadata={"comment": "the line that says so"}),
        pa.field("record", pa.string(), metadata={"comment": "all of it, as JSON"}),
    ]
)
# The views whose rows come from JSON records and safetensors files instead of Parquet tables.
LOADED: Mapping[str, pa.Schema] = MappingProxyType(
    {"shifts": SHIFTS, "runs": RUNS, "comparisons": COMPARISONS}
)
# Upper limit on the JSON bytes of a row, far above any real one.
LARGEST_ROW = 1 << 30
_COMMENTS = MappingProxyType(
    {
        "shifts": "one row per shift and block: what a meaningless image does to the states, to be subtracted",
        "runs": "one row per run: its spec, keys and summary",
        "comparisons": "one row per comparison of two runs: its verdict, and all that it found",
    }
)
# SQL types that are more specific than Arrow's.
_SQL_TYPES = MappingProxyType(
    {
        ("runs", "created_at"): "TIMESTAMP WITH TIME ZONE",
        ("runs", "summary"): "JSON",
        ("runs", "record"): "JSON",
        ("comparisons", "created_at"): "TIMESTAMP WITH TIME ZONE",
        ("comparisons", "record"): "JSON",
    }
)


def file_view(kind: str, paths: Sequence[str]) -> str:
    """Make the SQL view of one kind of table over committed files; without files, an empty view of the same types."""
    schema = KINDS[kind].schema
    nothing = ", ".join(f'CAST(NULL AS {sql_type(field.type)}) AS "{field.name}"' for field in schema)
    if not paths:
        return f"CREATE VIEW {kind} AS SELECT CAST(NULL AS VARCHAR) AS key, {nothing} WHERE false"
    columns = ", ".join(
        f'TRY_CAST("{field.name}" AS {sql_type(field.type)}) AS "{field.name}"' for field in schema
    )
    files = ", ".join(text(f"{PROTOCOL}://{path}") for path in paths)
    # The key is computed from the file name, so that a filter on it prunes files.
    columns = f"regexp_extract(filename, '([0-9a-f]{{64}})[^/]*$', 1) AS key, {columns}"
    options = "filename = true, hive_partitioning = true, hive_types_autocast = false"
    if not KINDS[kind].late:
        return f"CREATE VIEW {kind} AS SELECT {columns} FROM read_parquet([{files}], {options})"  # noqa: S608
    # Some or all files may lack the late columns: an empty row set names them.
    stored = f"FROM read_parquet([{files}], {options}, union_by_name = true)"
    named = f"SELECT CAST(NULL AS VARCHAR) AS filename, {nothing} WHERE false"
    return f"CREATE VIEW {kind} AS SELECT {columns} FROM ({stored} UNION ALL BY NAME {named})"  # noqa: S608


def row_view(name: str, schema: pa.Schema, lines: Path) -> str:
    """Make the SQL table and view of rows in a JSON lines file."""
    columns = ", ".join(
        f'TRY_CAST("{field.name}" AS {_SQL_TYPES.get((name, field.name)) or sql_type(field.type)}) AS "{field.name}"'
        for field in schema
    )
    read = ", ".join(f'"{field.name}": {text(_read_type(field.type))}' for field in schema)
    # A run's record may be of any size.
    options = f"columns = {{{read}}}, format = 'newline_delimited', maximum_object_size = {LARGEST_ROW}"
    source = f"read_json({text(str(lines))}, {options})"
    table = f"CREATE TABLE stored.{name} AS SELECT {columns} FROM {source}"  # noqa: S608
    return f"{table}; CREATE VIEW {name} AS FROM stored.{name}"


def comments(name: str) -> str:
    """Make the COMMENT ON statements of one view and its columns."""
    kind = KINDS.get(name)
    schema = kind.schema if kind else LOADED[name]
    described: Mapping[str, str] = {field.name: field.metadata[b"comment"].decode() for field in schema}
    described = {**({"key": _KEY_COMMENT} if kind else {}), **described}
    lines = [f"COMMENT ON VIEW {name} IS {text(kind.comment if kind else _COMMENTS[name])}"]
    lines += [
        f'COMMENT ON COLUMN {name}."{column}" IS {text(comment)}' for column, comment in described.items()
    ]
    return "; ".join(lines)


def text(value: str) -> str:
    """Quote a string as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def _read_type(kind: pa.DataType) -> str:
    """The type to read a column from JSON with, where NaN is text."""
    return "VARCHAR[]" if is_vector(kind) else sql_type(kind)


def sql_type(kind: pa.DataType) -> str:
    """Name the SQL type of an Arrow type; floats of any width are FLOAT."""
    if pa.types.is_map(kind):
        return f"MAP({sql_type(kind.key_type)}, {sql_type(kind.item_type)})"
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        inside = ", ".join(f'"{field.name}" {sql_type(field.type)}' for field in kind)
        return f"STRUCT({inside})"
    names = {
        "string": "VARCHAR",
        "bool": "BOOLEAN",
        "int32": "INTEGER",
        "int64": "BIGINT",
        "double": "DOUBLE",
    }
    return names.get(str(kind), "FLOAT")
