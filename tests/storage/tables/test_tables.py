"""Tables keep what was put in them, in the layout that makes queries quick."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import StoreError
from storage.shards.hidden_states import hidden_states_table, read_hidden_states
from storage.tables.arrow import from_rows, table_path
from storage.tables.parquet import iterate_groups, read_parquet, to_parquet, write_parquet, write_rows
from storage.tables.schemas import KINDS

ODD_TEXTS = [
    "",
    "nul \0 inside",
    "'; DROP TABLE samples; --",
    '"quoted" \\ back',
    "emoji 👩‍👩‍👧‍👦 and \u202eright to left",
    "line\r\nbreak\ttab\u2028",
    "e\u0301 and é",
    "x" * 2_000_000,
]
KEY = "ab" * 32


def sample(**changes):
    return {
        "dataset": "d",
        "sample_id": "s",
        "split": "target",
        "harmful": True,
        "question": "q",
    } | changes


def states(dtype=np.float16, **changes):
    vectors = np.random.default_rng(0).standard_normal((7, 3, 5)).astype(dtype)
    given = {
        "model": "org/model@main",
        "dataset": "d",
        "sample_ids": [f"s{i}" for i in range(7)],
        "condition": "image",
        "blocks": [4, 0, 2],
        "vectors": vectors,
    }
    return hidden_states_table(**(given | changes)), vectors


def test_odd_texts_come_back_as_they_were():
    rows = [sample(sample_id=str(i), question=odd, caption=odd) for i, odd in enumerate(ODD_TEXTS)]
    read = read_parquet(to_parquet(from_rows(rows, "samples"), "samples"))
    assert read["question"].to_pylist() == read["caption"].to_pylist() == ODD_TEXTS


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "hidden_states"])
def test_every_kind_of_table_can_be_empty_and_comes_back_with_its_columns(kind):
    read = read_parquet(to_parquet(from_rows([], kind), kind))
    assert read.schema.equals(KINDS[kind].schema)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (sample(question=None), r"row 1 of samples \(sample 's'\) has no question"),
        (sample(extra=1), r"row 1 of samples \(sample 's'\) has unknown columns \['extra'\]"),
        (sample(harmful="yes"), r"row 1 of samples \(sample 's'\) has harmful = 'yes', which is no bool"),
        (
            sample(question="\ud800"),
            r"row 1 of samples \(sample 's'\) has question = '\\ud800', which is no string",
        ),
        (sample(question=7), r"row 1 of samples \(sample 's'\) has question = 7"),
    ],
)
def test_a_row_that_does_not_fit_is_named(row, message):
    with pytest.raises(StoreError, match=message):
        from_rows([sample(), row], "samples")


def judgement(**changes):
    names = ("judge", "dataset", "sample_id", "condition", "intervention", "answer_digest", "verdict")
    return dict.fromkeys(names, "x") | changes


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.float32("nan")])
@pytest.mark.parametrize("column", ["score", "reference_score", "alpha"])
def test_a_number_that_is_not_finite_is_refused_with_its_row_and_sample(column, value):
    with pytest.raises(StoreError, match=rf"row 1 of judgements \(sample 's'\) has {column} = .*not finite"):
        from_rows([judgement(score=1.0), judgement(sample_id="s", **{column: value})], "judgements")


def test_numbers_at_the_ends_of_double_precision_and_nulls_are_kept():
    scores = [1.7976931348623157e308, -1.7976931348623157e308, 5e-324, None, 0.0]
    table = from_rows([judgement(score=score) for score in scores], "judgements")
    assert table["score"].to_pylist() == scores


@pytest.mark.parametrize(
    "vector", [[1.0, None], [1.0, np.nan], [np.inf, 0.0], [1.0, 1e300], np.array([0.0, -1e39])]
)
def test_a_vector_with_a_gap_or_a_number_too_large_for_it_is_refused_with_its_row(vector):
    rows = [{"model": "m", "image": "i", "image_digest": "0", "vector": one} for one in ([1.0, 2.0], vector)]
    with pytest.raises(StoreError, match=r"row 1 of image_vectors has vector = .*holds a null or a number"):
        from_rows(rows, "image_vectors")


def test_a_table_whose_vectors_have_gaps_or_numbers_too_large_is_refused():
    columns = {name: pa.array(["x"]) for name in ("model", "image", "image_digest")}

    def make(vector, kind):
        return pa.table({**columns, "vector": pa.array([vector], pa.list_(kind))})

    with pytest.raises(StoreError, match="column vector of image_vectors has 1 nulls inside its vectors"):
        to_parquet(make([1.0, None], pa.float32()), "image_vectors")
    with pytest.raises(StoreError, match="column vector of image_vectors has 1 numbers that are too large"):
        to_parquet(make([1e300, 1.0], pa.float64()), "image_vectors")
    read = read_parquet(to_parquet(make([3.4e38, 1.0], pa.float64()), "image_vectors"))
    assert read["vector"].to_pylist() == [[float(np.float32(3.4e38)), 1.0]]


def test_a_table_with_other_columns_is_refused():
    table = from_rows([sample()], "samples")
    with pytest.raises(StoreError, match="lacks the column question"):
        to_parquet(table.drop_columns(["question"]), "samples")
    with pytest.raises(StoreError, match=r"unknown columns \['more'\]"):
        to_parquet(table.append_column("more", [[1]]), "samples")
    empty = table.set_column(table.schema.get_field_index("question"), "question", pa.nulls(1, pa.string()))
    with pytest.raises(StoreError, match="1 rows of samples have no question"):
        to_parquet(empty, "samples")
    with pytest.raises(StoreError, match="choose one of samples, "):
        to_parquet(table, "nonsense")


def test_columns_may_come_in_any_order_and_optional_ones_may_be_left_out():
    table = from_rows([sample(category="c")], "samples")
    turned = table.select(["category", "question", "harmful", "split", "sample_id", "dataset"])
    assert to_parquet(turned, "samples") == to_parquet(table, "samples")


def test_the_same_table_gives_the_same_bytes():
    assert to_parquet(states()[0], "hidden_states") == to_parquet(states()[0], "hidden_states")


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_states_come_back_bit_for_bit(dtype):
    table, vectors = states(dtype)
    for read in (
        read_hidden_states(table),
        read_hidden_states(read_parquet(to_parquet(table, "hidden_states"))),
    ):
        assert read.sample_ids == [f"s{i}" for i in range(7)]
        assert read.blocks == [0, 2, 4]
        assert read.vectors.dtype == dtype
        assert np.array_equal(read.vectors, vectors[:, [1, 2, 0]])


def test_rare_numbers_of_half_precision_come_back():
    rare = np.array([np.inf, -np.inf, np.nan, 6e-8, 65504, -0.0, 0.0], np.float16).reshape(7, 1, 1)
    table, _ = states(blocks=[0], vectors=rare)
    read = read_hidden_states(read_parquet(to_parquet(table, "hidden_states")))
    assert read.vectors.tobytes() == rare.tobytes()


def test_rows_of_states_may_come_in_any_order_and_in_pieces():
    table, vectors = states()
    order = np.random.default_rng(1).permutation(table.num_rows)
    mixed = pa.concat_tables([table.take(order[:5]), table.take(order[5:6]), table.take(order[6:])])
    read = read_hidden_states(mixed)
    assert np.array_equal(read.vectors, vectors[[int(name[1:]) for name in read.sample_ids]][:, [1, 2, 0]])
    assert to_parquet(mixed, "hidden_states") == to_parquet(table, "hidden_states")


def test_no_states_are_no_rows():
    table, _ = states(sample_ids=[], vectors=np.empty((0, 3, 5), np.float16))
    assert table.num_rows == 0
    assert read_hidden_states(table).vectors.shape == (0, 0, 0)
    assert read_parquet(to_parquet(table, "hidden_states")).num_rows == 0


def test_missing_doubled_and_mixed_states_are_refused():
    table, _ = states()
    with pytest.raises(StoreError, match="20 rows for 7 samples and 3 blocks"):
        read_hidden_states(table.slice(1))
    with pytest.raises(StoreError, match="a sample twice"):
        read_hidden_states(pa.concat_tables([table, table.slice(0, 1)]))
    with pytest.raises(StoreError, match="2 values of condition"):
        read_hidden_states(pa.concat_tables([table, states(condition="query")[0]]))
    with pytest.raises(StoreError, match="one file of hidden_states holds one condition, this has 2"):
        to_parquet(pa.concat_tables([table, states(condition="query")[0]]), "hidden_states")
    wide = states(sample_ids=["w"], vectors=np.zeros((1, 3, 6), np.float16))[0]
    with pytest.raises(StoreError, match="several widths"):
        read_hidden_states(pa.concat_tables([table, wide]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"vectors": np.zeros((7, 2, 5), np.float16)},
            r"shape \(7, 2, 5\) do not fit 7 samples and 3 blocks",
        ),
        ({"vectors": np.zeros((7, 3), np.float16)}, "do not fit"),
        ({"vectors": np.zeros((7, 3, 5))}, "are float64: convert them"),
        ({"sample_ids": ["s"] * 7}, "occurs twice"),
        ({"blocks": [1, 1, 2]}, "occurs twice"),
    ],
)
def test_states_of_the_wrong_shape_or_type_are_refused(changes, message):
    with pytest.raises(StoreError, match=message):
        states(**changes)


def test_the_layout_of_states_is_one_plain_row_group_per_block(tmp_path):
    write_parquet(states()[0], "hidden_states", tmp_path / "states.parquet")
    file = pq.ParquetFile(tmp_path / "states.parquet")
    assert file.schema_arrow.names == [
        "dataset",
        "sample_id",
        "block",
        "position",
        "intervention",
        "alpha",
        "vector",
    ]
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    columns = {group.column(2).statistics.min: group.column(6) for group in groups}
    assert list(columns) == [0, 2, 4]
    for vector in columns.values():
        assert vector.path_in_schema == "vector.list.element"
        assert set(vector.encodings) <= {"PLAIN", "RLE"}
        assert vector.statistics is None
        assert not vector.has_dictionary_page
    assert all(group.column(2).statistics.min == group.column(2).statistics.max for group in groups)


def test_damage_inside_a_page_is_noticed_when_read():
    data = bytearray(to_parquet(states()[0], "hidden_states"))
    data[data.index(states()[1][0, 1].tobytes()) + 1] ^= 4
    with pytest.raises(StoreError, match="cannot read"):
        read_parquet(bytes(data))


def test_paths_of_tables_hold_their_partitions_escaped():
    assert table_path("samples", KEY) == f"samples/{KEY}.parquet"
    path = table_path("hidden_states", KEY, model="org/../model=x %", condition="image")
    assert path == f"hidden_states/model=org%2F..%2Fmodel%3Dx %25/condition=image/{KEY}.parquet"
    with pytest.raises(StoreError, match="lies in folders for"):
        table_path("hidden_states", KEY, model="m")
    with pytest.raises(StoreError, match="is no key"):
        table_path("samples", "../x")


def test_rows_are_written_as_they_come_and_read_by_row_group(tmp_path):
    place = tmp_path / "samples.parquet"
    alive = most = 0

    class Counted(dict):
        def __init__(self, number):
            nonlocal alive, most
            super().__init__(sample(sample_id=f"s{number:05}"))
            alive += 1
            most = max(most, alive)

        def __del__(self):
            nonlocal alive
            alive -= 1

    assert write_rows(map(Counted, range(10_000)), "samples", place) == 10_000
    assert most < 9000
    groups = list(iterate_groups(place, ["sample_id", "no such column"]))
    assert [group.column_names for group in groups] == [["sample_id"]] * len(groups)
    assert len(groups) > 1
    found = pa.concat_tables(groups)["sample_id"].to_pylist()
    assert (
        found
        == [f"s{number:05}" for number in range(10_000)]
        == pq.read_table(place)["sample_id"].to_pylist()
    )
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 1
    place.write_bytes(data)
    with pytest.raises(StoreError, match="remove it and run again"):
        list(iterate_groups(place))


def test_a_row_that_cannot_be_written_is_named_by_its_number_among_all():
    rows = [{"stage": "s", "dataset": "d", "line": number, "reason": "r"} for number in range(5000)]
    rows[4500]["line"] = "x"
    with pytest.raises(StoreError, match="row 4500 of quarantine"):
        write_rows(rows, "quarantine", io.BytesIO())
