"""Vectors in SQL and in Python: the macros and the principal components agree with NumPy and refuse what they must."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cmrm.statistics.geometry import pca as find_components
from storage.errors import StoreError
from storage.records.hashing import stage_key
from storage.shards.hidden_states import hidden_states_table
from storage.sql import vectors as module
from storage.sql.database import connect
from storage.sql.macros import MACROS
from storage.sql.vectors import centroid, fit, pca
from storage.store import Store
from storage.tables.arrow import table_path
from storage.tables.parquet import to_parquet

SAMPLES, BLOCKS, WIDTH = 40, 3, 6
VECTORS = {
    condition: np.random.default_rng(seed).standard_normal((SAMPLES, BLOCKS, WIDTH)).astype(np.float32)
    for seed, condition in enumerate(("query", "image"))
}
ROUNDED = arrays.arrays(
    np.float32,
    st.tuples(st.integers(2, 12), st.integers(1, 7)),
    elements=st.floats(-1000, 1000, width=16),
)


@pytest.fixture(scope="module")
def sql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """A store with states of forty samples under two conditions."""
    store = Store.create(tmp_path_factory.mktemp("vectors") / "store")
    for condition, vectors in VECTORS.items():
        key = stage_key("embed", {"condition": condition})
        table = hidden_states_table(
            model="m",
            dataset="d",
            sample_ids=[f"s{i:02}" for i in range(SAMPLES)],
            condition=condition,
            blocks=range(BLOCKS),
            vectors=vectors,
        )
        path = table_path("hidden_states", key, model="m", condition=condition)
        store.commit("embed", key, {path: to_parquet(table, "hidden_states")})
    with connect(store.url) as connection:
        yield connection


def one(sql: duckdb.DuckDBPyConnection, query: str, *parameters: object) -> object:
    """The only value that a query gives."""
    ((value,),) = sql.execute(query, list(parameters)).fetchall()
    return value


def decompose(vectors: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """NumPy's own answer: components with their largest entry positive, and explained variance ratio."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    chosen = directions[:components]
    signs = np.sign(chosen[np.arange(components), np.abs(chosen).argmax(axis=1)])
    return chosen * signs[:, None], (singular**2 / (singular**2).sum())[:components]


def test_every_macro_is_explained_in_the_database(sql):
    told = dict(
        sql.execute(
            "SELECT function_name, comment FROM duckdb_functions() WHERE database_name = 'store'"
        ).fetchall()
    )
    assert told == {macro.name: macro.comment for macro in MACROS}


def test_a_centroid_is_the_mean_of_each_group(sql):
    found = sql.execute(
        "SELECT condition, block, centroid(vector) FROM hidden_states GROUP BY ALL"
    ).fetchall()
    assert len(found) == 2 * BLOCKS
    for condition, block, centre in found:
        mean = VECTORS[condition][:, block].mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(centre, mean, rtol=1e-12)


@given(vectors=ROUNDED)
def test_a_centroid_is_numpys_mean(sql, vectors):
    found = one(sql, "SELECT centroid(v) FROM (SELECT unnest(?::FLOAT[][]) AS v)", vectors.tolist())
    np.testing.assert_allclose(found, vectors.mean(axis=0, dtype=np.float64), rtol=1e-9, atol=1e-9)


def test_a_centroid_passes_over_null_and_is_null_where_there_is_nothing(sql):
    rows = "(VALUES (1, [1, 2]::FLOAT[]), (1, NULL), (1, [3, 5]::FLOAT[]), (2, NULL), (3, [7, 8]::FLOAT[])) t(g, v)"
    found = sql.execute(f"SELECT g, centroid(v) FROM {rows} GROUP BY g ORDER BY g").fetchall()
    assert found == [(1, [2.0, 3.5]), (2, None), (3, [7.0, 8.0])]
    assert one(sql, f"SELECT centroid(v) FROM {rows} WHERE false") is None
    chosen = f"SELECT centroid(CASE WHEN g = 3 THEN v END) FROM {rows}"
    assert one(sql, chosen) == [7.0, 8.0]


def test_a_centroid_shows_that_a_number_is_missing_or_infinite(sql):
    rows = "(VALUES (['nan'::FLOAT, 'inf'::FLOAT, 1]), ([1, 2, 3]::FLOAT[])) t(v)"
    found = one(sql, f"SELECT centroid(v) FROM {rows}")
    assert np.isnan(found[0])
    assert found[1:] == [np.inf, 2.0]


def test_vectors_of_several_models_have_no_centroid(sql):
    with pytest.raises(duckdb.Error, match=r"2 and 3 numbers.*several models; add WHERE model"):
        sql.execute(
            "SELECT centroid(v) FROM (VALUES ([1, 2]::FLOAT[]), ([1, 2, 3]::FLOAT[])) t(v)"
        ).fetchall()


def test_a_projection_is_the_signed_length_along_a_shift(sql):
    vector, shift = VECTORS["query"][0, :2].astype(np.float64)
    asked = "SELECT projection(?::FLOAT[], ?::FLOAT[])"
    expected = vector @ shift / np.linalg.norm(shift)
    assert one(sql, asked, vector.tolist(), shift.tolist()) == pytest.approx(expected)
    assert one(sql, asked, vector.tolist(), (-3 * shift).tolist()) == pytest.approx(-expected)
    assert one(sql, asked, vector.tolist(), [0.0] * WIDTH) is None
    assert one(sql, asked, None, shift.tolist()) is None
    with pytest.raises(duckdb.Error, match="dimensions must be equal"):
        one(sql, asked, [1.0], [1.0, 2.0])


def with_massive_component(place: int, *, others: int = 4095) -> tuple[np.ndarray, np.ndarray]:
    """Two near states as language models have them: one component of 1,500 among ordinary ones, as FLOAT holds them."""
    generator = np.random.default_rng(place)
    first = generator.standard_normal(others)
    second = first + 0.3 * generator.standard_normal(others)
    return tuple(np.insert(one, place, 1500.0).astype(np.float32) for one in (first, second))


@pytest.mark.parametrize("place", [0, 2000, 4095])
@pytest.mark.parametrize("kind", ["FLOAT[]", "DOUBLE[]", "FLOAT[4096]"])
def test_a_massive_component_swallows_no_other_wherever_it_stands(sql, place, kind):
    first, second = with_massive_component(place)
    a, b = first.astype(np.float64), second.astype(np.float64)
    length = np.linalg.norm(b)
    asked = f"FROM (SELECT ?::{kind} AS a, ?::{kind} AS b)"
    expected = {
        "dot(a, b)": a @ b,
        "norm(a)": np.linalg.norm(a),
        "l2(a, b)": np.linalg.norm(a - b),
        "projection(a, b)": a @ b / length,
        # Of the angle's cosine itself seven digits are the same however wrong the rest is.
        "1 - cosine(a, b)": 1 - a @ b / (np.linalg.norm(a) * length),
    }
    for call, value in expected.items():
        found = one(sql, f"SELECT {call} {asked}", first.tolist(), second.tolist())
        assert found == pytest.approx(value, rel=1e-9), call


def test_the_nearest_neighbours_of_a_state_with_a_massive_component_are_numpys(sql):
    generator = np.random.default_rng(5)
    centre = generator.standard_normal(4096)
    # Each a little further off than the one before it, which single precision cannot tell.
    states = np.stack([centre + 0.05 * (20 + i) * generator.standard_normal(4096) for i in range(30)])
    centre[100] = states[:, 100] = 1500.0
    centre, states = centre.astype(np.float32), states.astype(np.float32)
    sql.register("near", pa.table({"i": range(30), "v": list(states)}))
    asked = "SELECT list(i ORDER BY cosine(v, ?::FLOAT[]) DESC) FROM near"
    wide, middle = states.astype(np.float64), centre.astype(np.float64)
    cosines = wide @ middle / (np.linalg.norm(wide, axis=1) * np.linalg.norm(middle))
    assert one(sql, asked, centre.tolist()) == np.argsort(-cosines).tolist()


def test_a_vector_of_length_zero_has_no_cosine_and_is_no_neighbour(sql):
    rows = "(VALUES (1, [0, 0]::FLOAT[]), (2, [3, 4]::FLOAT[]), (3, [4, 3]::FLOAT[])) t(i, v)"
    assert one(sql, "SELECT cosine([0, 0]::FLOAT[], [1, 2]::FLOAT[])") is None
    assert one(sql, "SELECT cosine([1, 2]::FLOAT[], [0, 0]::FLOAT[])") is None
    assert one(sql, f"SELECT list(i ORDER BY cosine(v, [3, 4]) DESC) FROM {rows}") == [2, 3, 1]
    with pytest.raises(duckdb.Error, match="dimensions must be equal"):
        one(sql, "SELECT cosine([0.0], [1.0, 2.0])")


def test_a_vector_that_holds_nan_shows_it_in_its_cosine(sql):
    for other in ("[1, 2]", "[0, 0]"):
        assert np.isnan(one(sql, f"SELECT cosine(['nan'::FLOAT, 1], {other}::FLOAT[])"))


def test_a_centroid_and_coordinates_keep_small_numbers_beside_a_massive_one(sql):
    states = np.stack(with_massive_component(7) + with_massive_component(9)).astype(np.float32)
    sql.register("massive", pa.table({"v": list(states)}))
    mean = states.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(one(sql, "SELECT centroid(v) FROM massive"), mean, rtol=1e-12)
    directions, explained = decompose(states, 2)
    fitted = one(sql, "SELECT pca(v, 2) FROM massive")
    np.testing.assert_allclose(fitted["explained"], explained, rtol=1e-9)
    found = sql.execute(
        "SELECT coordinates(v, p) FROM massive, (SELECT pca(v, 2) AS p FROM massive)"
    ).fetchall()
    np.testing.assert_allclose([row[0] for row in found], (states - mean) @ directions.T, atol=1e-9 * 1500)


@pytest.mark.parametrize("condition", ["query", "image"])
def test_distances_to_the_centroid_of_a_condition_are_numpys(sql, condition):
    found = sql.execute(
        f"SELECT condition, block, sample_id, distance FROM distance_to_centroid('{condition}') "
        "ORDER BY condition, block, sample_id"
    ).fetchall()
    assert len(found) == 2 * BLOCKS * SAMPLES
    centre = VECTORS[condition].mean(axis=0, dtype=np.float64)
    expected = [
        np.linalg.norm(VECTORS[shown][:, block] - centre[block], axis=1)
        for shown in ("image", "query")
        for block in range(BLOCKS)
    ]
    np.testing.assert_allclose([row[3] for row in found], np.concatenate(expected), rtol=1e-12)


def test_principal_components_in_sql_and_in_python_are_numpys(sql):
    vectors = VECTORS["image"][:, 1]
    directions, explained = decompose(vectors, 3)
    fitted = one(sql, "SELECT pca(vector, 3) FROM hidden_states WHERE condition = 'image' AND block = 1")
    np.testing.assert_allclose(fitted["mean"], vectors.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(fitted["components"], directions, atol=1e-6)
    np.testing.assert_allclose(fitted["explained"], explained, rtol=1e-6)
    rows = sql.execute(
        "WITH fitted AS (SELECT pca(vector) AS p FROM hidden_states WHERE condition = 'image' AND block = 1) "
        "SELECT coordinates(vector, p) FROM hidden_states, fitted "
        "WHERE condition = 'image' AND block = 1 ORDER BY sample_id"
    ).fetchall()
    expected = (vectors - vectors.mean(axis=0)) @ directions[:2].T
    np.testing.assert_allclose([row[0] for row in rows], expected, atol=1e-5)
    query = "SELECT sample_id, block AS b, vector FROM hidden_states WHERE condition = 'image' AND block = 1 ORDER BY 1"
    found = pca(sql, query, components=2)
    assert found.rows.column_names == ["sample_id", "b", "pc1", "pc2"]
    assert found.rows["sample_id"].to_pylist() == [f"s{i:02}" for i in range(SAMPLES)]
    np.testing.assert_allclose(np.stack([found.rows["pc1"], found.rows["pc2"]], axis=1), expected, atol=1e-5)
    np.testing.assert_allclose(found.explained_variance_ratio, explained[:2], rtol=1e-6)


@given(vectors=ROUNDED)
def test_principal_components_are_orthonormal_and_explain_what_numpys_do(sql, vectors):
    components = min(vectors.shape)
    table = pa.table({"vector": list(vectors)})
    sql.register("made_up", table)
    found = pca(sql, "FROM made_up", components=components)
    np.testing.assert_allclose(found.components @ found.components.T, np.eye(components), atol=1e-8)
    assert (found.components[np.arange(components), np.abs(found.components).argmax(axis=1)] > 0).all()
    coordinates = np.stack([found.rows[f"pc{i + 1}"] for i in range(components)], axis=1)
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(coordinates @ found.components, centred, atol=1e-3)
    if centred.any():
        singular = np.linalg.svd(centred, compute_uv=False)
        np.testing.assert_allclose(
            found.explained_variance_ratio, singular[:components] ** 2 / (singular**2).sum(), atol=1e-6
        )
    else:
        assert not found.explained_variance_ratio.any()


def test_sql_and_the_report_find_the_same_principal_components(sql):
    vectors = VECTORS["query"][:, 2]
    in_sql = pca(
        sql, "SELECT vector FROM hidden_states WHERE condition = 'query' AND block = 2", components=4
    )
    in_report = find_components(torch.from_numpy(vectors), components=4)
    np.testing.assert_allclose(in_sql.mean, in_report.mean, rtol=1e-12)
    np.testing.assert_allclose(in_sql.components, in_report.components, atol=1e-12)
    np.testing.assert_allclose(
        in_sql.explained_variance_ratio, in_report.explained_variance_ratio, rtol=1e-12
    )


def test_a_row_without_a_vector_has_no_coordinates(sql):
    found = pca(sql, "FROM (VALUES (1, [1, 2]::FLOAT[]), (2, NULL), (3, [3, 5])) t(n, vector)", components=1)
    assert found.rows["n"].to_pylist() == [1, 2, 3]
    first, middle, last = found.rows["pc1"].to_pylist()
    assert middle is None
    assert last == pytest.approx(np.hypot(1, 1.5))
    assert first == pytest.approx(-last)
    aggregate = "SELECT pca(v, 1).explained FROM (VALUES ([1, 2]::FLOAT[]), (NULL), ([3, 5]::FLOAT[])) t(v)"
    assert one(sql, aggregate) == pytest.approx([1.0])


@pytest.mark.parametrize(
    ("rows", "components", "reason"),
    [
        ("([1.0, 2.0])", 1, "at least two vectors, not 1"),
        ("(NULL::FLOAT[])", 1, "at least two vectors, not 0"),
        ("([1.0, 2.0]), ([1.0, 2.0, 3.0])", 1, "2, 3 numbers, so they are of several models"),
        ("([1.0, 2.0]), ([3.0, 4.0])", 3, "ask for 1 to 2"),
        ("([1.0, 2.0]), ([3.0, 4.0])", 0, "ask for 1 to 2"),
        ("([1.0, 2.0]), (['nan'::FLOAT, 1.0])", 1, "NaN or infinity"),
    ],
)
def test_what_has_no_principal_components_is_refused_with_the_fix(sql, rows, components, reason):
    table = f"(SELECT v::FLOAT[] AS vector FROM (VALUES {rows}) t(v))"
    with pytest.raises(StoreError, match=reason):
        pca(sql, f"FROM {table}", components=components)
    if "NULL" in rows:
        assert one(sql, f"SELECT pca(vector, 1) FROM {table}") is None
    else:
        with pytest.raises(duckdb.Error, match=reason):
            one(sql, f"SELECT pca(vector, {components}) FROM {table}")


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("SELECT 1 AS n", "no column 'vector', only n"),
        ("SELECT 1 AS vector", "int32, not a list"),
        ("SELECT ['a'] AS vector", "not a list of numbers"),
        ("SELECT [1, NULL]::FLOAT[] AS vector", "hold nulls"),
        ("", "the query is empty"),
    ],
)
def test_a_query_without_vectors_is_refused_with_the_fix(sql, query, reason):
    with pytest.raises(StoreError, match=reason):
        pca(sql, query)


def test_cursors_and_double_precision_work_too(sql):
    vectors = np.random.default_rng(2).standard_normal((9, 4))
    cursor = sql.cursor()
    assert len(one(cursor, "SELECT pca(vector) FROM hidden_states WHERE block = 0")["components"]) == 2
    cursor.register("doubles", pa.table({"vector": pa.array(list(vectors))}))
    found = pca(cursor, "FROM doubles", components=4)
    coordinates = np.stack([found.rows[f"pc{i + 1}"] for i in range(4)], axis=1)
    np.testing.assert_allclose(coordinates @ found.components + found.mean, vectors, rtol=1e-12)


def test_a_centroid_in_python_is_numpys_mean_batch_by_batch(sql):
    states = np.random.default_rng(3).standard_normal((9000, 5)).astype(np.float32) + 100
    sql.register("many", pa.table({"n": range(9000), "vector": list(states)}))
    mean = states.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(centroid(sql, "FROM many"), mean, rtol=1e-12)
    some = "SELECT CASE WHEN n % 3 = 0 THEN vector END AS v FROM many"
    np.testing.assert_allclose(
        centroid(sql, some, vector="v"), states[::3].mean(axis=0, dtype=np.float64), rtol=1e-12
    )
    for query, reason in (
        ("SELECT n FROM many", "no column 'vector', only n"),
        ("FROM many WHERE false", "no vector"),
        ("", "the query is empty"),
        ("SELECT n AS vector FROM many", "not a list"),
        ("SELECT unnest([[1, 2], [1]]::FLOAT[][]) AS vector", "1, 2 numbers"),
        (
            "FROM (SELECT vector FROM many UNION ALL SELECT [1, 2]::FLOAT[]) ORDER BY len(vector)",
            "2, 5 numbers",
        ),
    ):
        with pytest.raises(StoreError, match=reason):
            centroid(sql, query)


@pytest.mark.parametrize(("offset", "massive"), [(0, 1), (10_000, 1), (3, 1500)])
def test_principal_components_of_the_covariance_are_those_of_a_full_decomposition(
    offset, massive, monkeypatch
):
    monkeypatch.setattr(module, "_LARGE", 0)
    random = np.random.default_rng(4)
    states = random.standard_normal((5000, 30)) * np.linspace(1, 5, 30) + offset
    states[:, 7] *= massive
    states = states.astype(np.float32)
    directions, explained = decompose(states, 4)
    mean, found, shares = fit(states, 4)
    np.testing.assert_allclose(mean, states.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(found, directions, atol=1e-8)
    np.testing.assert_allclose(shares, explained, rtol=1e-8)


def test_a_variance_too_small_for_squares_is_found_by_the_full_decomposition(monkeypatch):
    monkeypatch.setattr(module, "_LARGE", 0)
    random = np.random.default_rng(5)
    turned, _ = np.linalg.qr(random.standard_normal((3, 3)))
    states = random.standard_normal((400, 3)) * [1e5, 1, 1e-4] @ turned
    directions, explained = decompose(states, 3)
    _, found, shares = fit(states, 3)
    np.testing.assert_allclose(found, directions, atol=1e-6)
    np.testing.assert_allclose(shares, explained, rtol=1e-5)


@pytest.mark.parametrize("least", [0, 1 << 24])
def test_numbers_whose_squares_are_infinite_are_refused(monkeypatch, least):
    monkeypatch.setattr(module, "_LARGE", least)
    states = np.random.default_rng(6).standard_normal((300, 5)) * 2.0**600
    with pytest.raises(StoreError, match="scale them down"):
        fit(states, 2)
