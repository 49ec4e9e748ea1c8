"""`cmrm sql`: rows on the screen and in files, queries from files, mistakes with their place."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
from markdown import markdown

from flows.cli import main
from storage.sql.macros import MACROS
from storage.store import Store
from storage.tables.schemas import KINDS
from tests.made_up_store import fill

ROOT = Path(__file__).parents[3]
ODD = """SELECT 1.5::FLOAT AS single, 'a|b <b>x</b> ![i](http://e) *c*
second' AS "te|xt", NULL AS nothing, '' AS empty, [1, NULL, 'nan'::FLOAT, 0.1]::FLOAT[] AS vector,
{'a': 'inf'::DOUBLE, 'b': ['x"y']} AS pair, TIMESTAMP '2020-01-02 03:04:05' AS at, true AS yes, MAP {'k': 1} AS named,
'ab'::BLOB AS bytes, 12345678901234567890::HUGEINT AS large, 'inf'::DOUBLE AS infinite, chr(27) || '[31m' AS code"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with something in every view."""
    return fill(Store.create(tmp_path_factory.mktemp("query") / "store")).url


@pytest.fixture
def ask(store: str, capfdbinary: pytest.CaptureFixture[bytes]):
    """Ask through the command line in this process; what it prints."""

    def run(*arguments: str) -> str:
        main(["sql", *arguments, "--store", store])
        return capfdbinary.readouterr().out.decode()

    return run


@pytest.fixture
def fail(store: str, capfdbinary: pytest.CaptureFixture[bytes]):
    """Ask what is refused with status 2; the message, which has no traceback and no control characters."""

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as exit_:
            main(["sql", *arguments, "--store", store])
        assert exit_.value.code == 2
        shown = capfdbinary.readouterr()
        assert b"Traceback" not in shown.out + shown.err
        assert b"\x1b" not in shown.err
        return shown.err.decode()

    return run


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A screen of eighty columns."""
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.usefixtures("narrow")
def test_a_table_sets_numbers_flush_right_and_tells_null_apart(ask):
    lines = ask(
        "SELECT 'a' AS name, 5 AS n, NULL AS x UNION ALL SELECT 'bb', 1234, NULL ORDER BY n"
    ).splitlines()
    assert [line.rstrip() for line in lines] == ["name     n  x", "a        5  NULL", "bb    1234  NULL"]


@pytest.mark.usefixtures("narrow")
def test_a_table_keeps_within_the_screen_and_folds_long_texts(ask):
    shown = ask(
        "SELECT 1 AS n, repeat('word ', 30) AS answer, repeat('x', 3000) AS letters, 2.0 / 3 AS share"
    )
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert shown.count("word") == 30
    assert "0.666667" in lines[1]
    assert lines[-1].startswith("… texts are cut at 200 characters; --format csv has all")


@pytest.mark.usefixtures("narrow")
def test_what_is_too_wide_for_a_table_is_shown_as_records(ask):
    lines = ask("FROM responses ORDER BY sample_id").splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line.startswith("row ")] == [f"row {n} ".ljust(80, "─") for n in (1, 2)]
    assert any(re.fullmatch(r"alpha +NULL *", line) for line in lines)
    assert any(re.fullmatch(r"answer +I cannot\. *", line) for line in lines)


@pytest.mark.usefixtures("narrow")
def test_a_table_ends_after_a_thousand_rows_and_the_formats_do_not(ask, tmp_path):
    shown = ask("SELECT range AS n FROM range(3000)").splitlines()
    assert shown[-1].startswith("… only the first 1000 rows are shown")
    assert len(shown) < 1010
    assert len(ask("SELECT range AS n FROM range(3000)", "--format", "csv").splitlines()) == 3001
    assert len(json.loads(ask("SELECT range AS n FROM range(3000)", "--format", "json"))) == 3000
    assert len(ask("SELECT range AS n FROM range(3000)", "--format", "markdown").splitlines()) == 3002
    ask("SELECT range AS n FROM range(3000)", "-o", str(tmp_path / "rows.parquet"))
    assert pq.read_metadata(tmp_path / "rows.parquet").num_rows == 3000


def test_long_lists_are_shortened_and_no_rows_are_said(ask):
    shown = ask("SELECT [1, 2]::FLOAT[] AS few, list_transform(range(4096), lambda x: x / 3) AS many")
    assert "[1, 2]" in shown
    assert "[0, 0.333333, 0.666667, 1, … 4096 values]" in shown
    assert ask("SELECT 1 AS one WHERE false").splitlines()[-1] == "no rows"


def test_json_is_an_array_of_objects_with_null_for_what_json_has_not(ask):
    shown = ask(ODD, "--format", "json")
    assert "\x1b" not in shown
    assert json.loads(shown, parse_constant=pytest.fail) == [
        {
            "single": 1.5,
            "te|xt": "a|b <b>x</b> ![i](http://e) *c*\nsecond",
            "nothing": None,
            "empty": "",
            "vector": [1, None, None, 0.1],
            "pair": {"a": None, "b": ['x"y']},
            "at": "2020-01-02 03:04:05.000000",
            "yes": True,
            "named": {"k": 1},
            "bytes": "6162",
            "large": 12345678901234567890,
            "infinite": None,
            "code": "\x1b[31m",
        }
    ]
    assert json.loads(ask("SELECT 1 AS one WHERE false", "--format", "json")) == []


def test_csv_is_raw_data_with_vectors_as_json(ask, tmp_path):
    ask(ODD, "-o", str(tmp_path / "odd.csv"))
    with (tmp_path / "odd.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["te|xt"] == "a|b <b>x</b> ![i](http://e) *c*\nsecond"
    assert json.loads(row["vector"]) == [1, None, None, 0.1]
    assert json.loads(row["pair"]) == {"a": None, "b": ['x"y']}
    assert (row["single"], row["yes"], row["infinite"], row["code"]) == ("1.5", "true", "inf", "\x1b[31m")
    text = ask("SELECT NULL AS a, '' AS b, '=1+1' AS c", "--format", "csv")
    assert text == 'a,b,c\n,"",=1+1\n'
    frame = pd.read_csv(tmp_path / "odd.csv")
    assert frame.shape == (1, 13)


def test_markdown_lets_no_text_break_the_table_or_become_html(ask):
    text = ask(ODD, "--format", "markdown")
    assert len(text.splitlines()) == 3
    html = markdown(text, extensions=["tables"])
    assert html.count("<tr>") == 2
    assert html.count("<td") == 13
    for harm in ("<b>", "<img", "<em>", "<a "):
        assert harm not in html
    assert text.splitlines()[1].startswith("| ---: | --- |")
    assert "NULL" in text


def test_a_parquet_file_gives_the_rows_with_nan_that_its_query_gave(ask, tmp_path):
    place = tmp_path / "numbers.parquet"
    query = (
        "SELECT x, {'y': x} AS s, [x] AS many, n FROM (VALUES ('nan'::DOUBLE, 1), (2, 2), (-3, 3)) t(x, n)"
    )
    ask(query, "-o", str(place))
    for number in ("x", "s.y", "many[1]"):
        count = f"SELECT count(*) FROM {{}} WHERE {{}} isnan({number})"
        for word in ("", "NOT"):
            expected = duckdb.sql(count.format(f"({query})", word)).fetchall()
            assert duckdb.sql(count.format(f"'{place}'", word)).fetchall() == expected
    # Of other columns they are kept, by which a reader leaves row groups out.
    assert pq.read_metadata(place).row_group(0).column(3).statistics.max == 3


def test_parquet_keeps_the_types(ask, tmp_path):
    place = tmp_path / "states.parquet"
    ask("SELECT block, vector, alpha FROM hidden_states ORDER BY ALL", "-o", str(place))
    table = pq.read_table(place)
    assert [str(field.type) for field in table.schema] == ["int32", "list<element: float>", "double"]
    assert table.num_rows == 36


def test_an_output_takes_its_format_from_its_name_and_replaces_what_was_there(ask, fail, tmp_path):
    for name, start in (("a.json", "["), ("a.md", "| n |"), ("a.CSV", "n"), ("a.txt", "n")):
        (tmp_path / name).write_text("old")
        assert ask("SELECT 1 AS n", "-o", str(tmp_path / name)) == ""
        assert (tmp_path / name).read_text().startswith(start)
    ask("SELECT 1 AS n", "--output", str(tmp_path / "a.json"), "--format", "csv")
    assert (tmp_path / "a.json").read_text() == "n\n1\n"
    assert "does not say which format" in fail("SELECT 1", "-o", str(tmp_path / "a.xyz"))


def test_a_query_that_fails_midway_leaves_the_old_file_and_no_other(fail, tmp_path):
    place = tmp_path / "rows.csv"
    place.write_text("old")
    late = "SELECT CASE WHEN range = 200000 THEN error('late') ELSE range END AS n FROM range(300000)"
    for arguments in (("-o", str(place)), ("--format", "csv")):
        assert fail(late, *arguments) == "cmrm: the query was refused: Invalid Input Error: late\n"
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
    assert place.read_text() == "old"
    assert "Is a directory" in fail("SELECT 1", "-o", str(tmp_path), "--format", "csv")
    assert "No such file" in fail("SELECT 1", "-o", str(tmp_path / "none" / "x.csv"))


def test_a_query_comes_from_a_file(ask, fail, tmp_path):
    (tmp_path / "q.sql").write_text("-- a comment\nSELECT 7 AS seven;\n")
    assert "seven" in ask("-f", str(tmp_path / "q.sql"))
    assert "eight" in ask("-- a comment\nSELECT 8 AS eight")
    assert "none.sql: does not exist" in fail("-f", str(tmp_path / "none.sql"))
    assert "two queries" in fail("SELECT 1", "-f", str(tmp_path / "q.sql"))
    assert "the query is empty" in fail(" ; ")
    assert "no query" in fail("--format", "csv")
    assert "no option --sotre" in fail("--sotre").replace("\n", " ").replace("│", "")


def test_of_several_statements_the_last_one_is_shown(ask):
    shown = ask(
        "CREATE TEMP TABLE mine AS SELECT 41 AS n; SET VARIABLE one = 1; SELECT n + getvariable('one') FROM mine"
    )
    assert "42" in shown


def test_without_a_query_all_views_columns_and_macros_are_listed(ask):
    shown = " ".join(ask().split())
    for name, kind in KINDS.items():
        assert f"{name} {kind.comment}" in shown
        assert all(column in shown for column in kind.schema.names)
    assert all(f"{macro.call.split('(')[0]}(" in shown for macro in MACROS)


@pytest.mark.parametrize(
    ("query", "line", "marked"),
    [
        ("SELECT nothing FROM samples", "LINE 1: SELECT nothing FROM samples", "nothing"),
        ("SELECT 1,\n  nothing\nFROM samples", "LINE 2:   nothing", "nothing"),
        ("SELECT 1;\nSELECT 2;\nSELECT nothing", "LINE 3: SELECT nothing", "nothing"),
        ("\n\n SELECT nothing", "LINE 3: SELECT nothing", "nothing"),
        ("-- why\n/* and\nhow */ SELECT nothing", "LINE 3: SELECT nothing", "nothing"),
        ("-- why\nSELECT nothing", "LINE 2: SELECT nothing", "nothing"),
        ("SELECT 1;\n\n  SELECT 'x'::INT", "LINE 3: SELECT 'x'::INT", "::INT"),
        ("SELECT\tnothing FROM samples", "LINE 1: SELECT\\tnothing FROM samples", "nothing"),
        (
            "SELECT '\x1b[31m', nothing FROM samples",
            "LINE 1: SELECT '\\x1b[31m', nothing FROM samples",
            "nothing",
        ),
        ("SELECT 'é', nothing FROM samples", "LINE 1: SELECT 'é', nothing FROM samples", "nothing"),
        ("SELEC 1", "LINE 1: SELEC 1", "SELEC"),
    ],
)
def test_an_error_is_marked_at_its_column(fail, query, line, marked):
    lines = fail(query).splitlines()
    place = lines.index(line)
    mark = lines[place + 1]
    assert line[mark.index("^") : len(mark)] == marked
    assert set(mark.strip()) == {"^"}


def test_wide_characters_keep_the_mark_in_its_column(fail):
    lines = fail("SELECT '日本', nothing FROM samples").splitlines()
    # Each of the two takes two columns of a screen.
    assert lines[-1].index("^") == len("LINE 1: SELECT '日本', ") + 2


def test_a_forbidden_statement_is_rejected_with_the_alternative(fail, tmp_path):
    assert "write the result with -o FILE" in fail(f"COPY (SELECT 1) TO '{tmp_path}/x.csv'")
    assert "principal components need at least two vectors" in fail("SELECT pca([1, 2]::FLOAT[])")
    assert "named 'a', which json cannot tell apart" in fail("SELECT 1 AS a, 2 AS a", "--format", "json")
    message = fail("SELECT INTERVAL 1 DAY AS day", "-o", str(tmp_path / "x.parquet"))
    assert "cast the column to VARCHAR" in message
    assert list(tmp_path.iterdir()) == []
