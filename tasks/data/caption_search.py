"""Caption search in SQL: rank images by the IDF-weighted words that their captions share with a question."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import duckdb

# Weights are whole numbers of millionths, so that sums are exact and ties are the same on every machine.
WEIGHT_SCALE = 10**6
# Candidates per question, in case other questions have taken its first choices.
CANDIDATES = 400

MEMORY_LIMIT = "2GB"
MAX_THREADS = 4
# A question of common words matches most captions: small batches bound the memory of the sums.
QUESTIONS_AT_ONCE = 8
ROWS_AT_ONCE = 50_000

# Stop words, which say how something is asked and not what about.
STOP_WORDS = """
    about after all also an and any are as at away be been before being best but by can could create did do does doing
    down each every explain few for from get give go going good had has have having he her here him his how if in into
    is it its just keep know like list look looking made make making many may me method more most much must my need
    new next no not of off on one only or other our out over own please provide put same set several she should show
    so some someone something such take tell than that the their them then there these they thing this those through
    to too two under until up upon use used using very want was way ways we were what when where which while who whom
    whose why will with within without would write you your
""".split()

_QUESTIONS = pa.schema([("question", pa.int32()), ("text", pa.string())])
_WORDS = pa.schema([("word", pa.string())])
_CAPTIONS = pa.schema([("image", pa.string()), ("caption", pa.string())])
_OFFERS = pa.schema(
    [("question", pa.int32()), ("image", pa.string()), ("caption", pa.string()), ("score", pa.int64())]
)

_TABLES = """
CREATE TABLE questions (question INTEGER, text VARCHAR);
CREATE TABLE given (image VARCHAR, caption VARCHAR);
CREATE TABLE stop_words (word VARCHAR);
CREATE MACRO find_words(written) AS unnest(regexp_extract_all(lower(written), '\\p{L}{2,}'));
CREATE MACRO fold(word) AS
    CASE WHEN length(word) > 3 AND word LIKE '%s' AND word NOT LIKE '%ss' THEN word[:-2] ELSE word END;
"""
# Words, captions and images get integer ids, images in order of name, for fast joins and sorts.
_INDEX = """
CREATE TABLE captions AS
    SELECT row_number() OVER (ORDER BY image, caption)::INTEGER AS id,
        dense_rank() OVER (ORDER BY image)::INTEGER AS picture, image, caption
    FROM given;
CREATE TABLE content_words AS
    SELECT DISTINCT question, fold(written) AS word
    FROM (SELECT question, find_words(text) AS written FROM questions)
    WHERE written NOT IN (FROM stop_words);
CREATE TABLE vocabulary AS
    SELECT row_number() OVER (ORDER BY word)::INTEGER AS number, word
    FROM (SELECT DISTINCT word FROM content_words);
CREATE TABLE postings AS
    SELECT DISTINCT number, id, picture
    FROM (SELECT id, picture, find_words(caption) AS written FROM captions)
    JOIN vocabulary ON word = fold(written)
    WHERE written NOT IN (FROM stop_words);
CREATE TABLE asked AS
    WITH counted AS (SELECT number, count(*) AS holders FROM postings GROUP BY number)
    SELECT question, number,
        round({scale} * ln(1 + (SELECT count(*) FROM captions) / holders))::BIGINT AS weight
    FROM content_words JOIN vocabulary USING (word) JOIN counted USING (number);
"""
_RANK = """
WITH scored AS MATERIALIZED (
    SELECT question, picture, id, sum(weight)::BIGINT AS score
    FROM asked JOIN postings USING (number)
    WHERE question BETWEEN $first AND $last
    GROUP BY ALL
), best AS (
    SELECT question, picture, max(score) AS score FROM scored GROUP BY ALL
), top AS (
    SELECT question, unnest(max({score: score, before: -picture}, $candidates), recursive := true)
    FROM best GROUP BY question
), worded AS (
    SELECT question, picture, score, min(id) AS id
    FROM top JOIN scored USING (question, score) WHERE picture = -before
    GROUP BY ALL
)
SELECT question, image, caption, score
FROM worded JOIN captions USING (id)
ORDER BY question, score DESC, image
"""


def search_captions(
    questions: Sequence[str], captions: Iterable[tuple[str, str]], *, candidates: int = CANDIDATES
) -> pa.Table:
    """Find, for each question, the images with a caption that shares words with it, each with its best caption.

    `captions` are pairs (image, caption), iterated once. A score is the sum over shared words of
    log(1 + captions / captions with the word), in millionths; stop words do not count, singular and plural are one.
    Returns columns question (its index), image, caption and score, at most `candidates` rows a question, best first;
    ties go to the image, then the caption, that is first by name. The order of the captions does not matter.
    """
    import duckdb

    with (
        tempfile.TemporaryDirectory(prefix="cmrm-search-") as spill,
        duckdb.connect(":memory:", config=_limits(spill)) as sql,
    ):
        sql.execute(_TABLES)
        _insert(sql, "stop_words", ((word,) for word in STOP_WORDS), _WORDS)
        _insert(sql, "questions", enumerate(questions), _QUESTIONS)
        _insert(sql, "given", captions, _CAPTIONS)
        sql.execute(_INDEX.format(scale=WEIGHT_SCALE))
        found = [
            sql.sql(_RANK, params={"first": first, "last": last, "candidates": candidates}).to_arrow_table()
            for first, last in _spans(len(questions))
        ]
    return pa.concat_tables([_OFFERS.empty_table(), *(table.cast(_OFFERS) for table in found)])


def _limits(spill: str) -> dict[str, Any]:
    # Each thread has sums of its own, so more threads need more memory; beyond the limit DuckDB spills to disk.
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    return {"memory_limit": MEMORY_LIMIT, "threads": threads, "temp_directory": spill}


def _insert(
    sql: duckdb.DuckDBPyConnection, table: str, rows: Iterable[tuple[Any, ...]], schema: pa.Schema
) -> None:
    rows = iter(rows)
    while batch := list(itertools.islice(rows, ROWS_AT_ONCE)):
        columns = [
            pa.array(values, field.type)
            for values, field in zip(zip(*batch, strict=True), schema, strict=True)
        ]
        sql.register("batch", pa.Table.from_arrays(columns, schema=schema))
        sql.execute(f"INSERT INTO {table} FROM batch")
        sql.unregister("batch")


def _spans(count: int) -> Iterator[tuple[int, int]]:
    """Split the questions into batches: the first and the last index of each."""
    for first in range(0, count, QUESTIONS_AT_ONCE):
        yield first, min(first + QUESTIONS_AT_ONCE, count) - 1
