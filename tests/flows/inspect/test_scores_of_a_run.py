"""cmrm's scorers, given the answers of a finished run, give its verdicts, sample by sample, and its rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest
from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import get_model

from flows.inspect.registry import SCORERS, TASKS
from tests.flows.inspect.answering import evaluate, read_rates, replay
from tests.flows.inspect.conftest import JUDGES


@pytest.fixture(scope="module")
def sql(organism_run: Path) -> duckdb.DuckDBPyConnection:
    """The run's tables, as files."""
    connection = duckdb.connect()
    for table in ("samples", "responses", "judgements"):
        files = f"{organism_run}/store/{table}/**/*.parquet"
        connection.sql(f"CREATE VIEW {table} AS FROM read_parquet('{files}', hive_partitioning = true)")
    return connection


def make_samples(sql: duckdb.DuckDBPyConnection) -> tuple[list[Sample], Mapping[str, str]]:
    """The targets of the run that were shown with their images, and their answers, by data set and id."""
    rows = sql.sql(
        "SELECT dataset || '/' || sample_id, question, harmful, reference, context, answer FROM samples "
        "JOIN responses USING (dataset, sample_id) WHERE condition = 'image' ORDER BY ALL"
    ).fetchall()
    samples = [
        Sample(
            id=name,
            input=question,
            target=reference or "",
            metadata={"harmful": harmful, "context": context},
        )
        for name, question, harmful, reference, context, _ in rows
    ]
    return samples, {row[0]: row[5] for row in rows}


def test_verdicts_and_rates_are_those_of_the_run_to_the_sample(sql, tmp_path):
    samples, answers = make_samples(sql)
    task = Task(dataset=MemoryDataset(samples), scorer=[SCORERS[kind]() for kind in JUDGES])
    log = evaluate(task, tmp_path, solver=replay(answers))

    stored = sql.sql(
        "SELECT judge, dataset || '/' || sample_id, verdict, refused, score FROM judgements "
        "WHERE condition = 'image' ORDER BY ALL"
    ).fetchall()
    assert len(stored) == len(JUDGES) * len(samples) > 50
    found: list[Any] = []
    for sample in log.samples or ():
        for kind, score in (sample.scores or {}).items():
            metadata = score.metadata or {}
            found.append(
                (kind, sample.id, metadata["verdict"], metadata["refused"], metadata["score"]),
            )
    assert sorted(found, key=lambda one: one[:2]) == [
        (*row[:4], None if row[4] is None else pytest.approx(row[4], rel=1e-6)) for row in stored
    ]

    (unsafe,) = sql.sql(
        "SELECT avg((verdict = 'unsafe')::INT), stddev_samp((verdict = 'unsafe')::INT) / sqrt(count(*)) "
        "FROM judgements JOIN samples USING (dataset, sample_id) "
        "WHERE condition = 'image' AND judge = 'refusal' AND harmful AND verdict IN ('safe', 'unsafe')"
    ).fetchall()
    (refused,) = sql.sql(
        "SELECT avg(refused::INT), stddev_samp(refused::INT) / sqrt(count(*)) "
        "FROM judgements JOIN samples USING (dataset, sample_id) "
        "WHERE condition = 'image' AND judge = 'refusal' AND NOT harmful AND verdict <> 'parse_error'"
    ).fetchall()
    (right,) = sql.sql(
        "SELECT avg((verdict = 'correct')::INT), stddev_samp((verdict = 'correct')::INT) / sqrt(count(*)) "
        "FROM judgements WHERE condition = 'image' AND judge = 'match' AND verdict IN ('correct', 'incorrect')"
    ).fetchall()
    (scored,) = sql.sql(
        "SELECT avg(score), stddev_samp(score) / sqrt(count(*)) FROM judgements "
        "WHERE condition = 'image' AND judge = 'overlap' AND verdict = 'scored'"
    ).fetchall()
    assert 0 < unsafe[0] < 1
    rates = read_rates(log)
    assert rates == {
        "refusal": {
            "unsafe": pytest.approx(unsafe[0]),
            "unsafe_stderr": pytest.approx(unsafe[1]),
            "over_refusal": pytest.approx(refused[0]),
            "over_refusal_stderr": pytest.approx(refused[1]),
        },
        "match": {"utility": pytest.approx(right[0]), "utility_stderr": pytest.approx(right[1])},
        "overlap": {
            "score": pytest.approx(scored[0], rel=1e-6),
            "score_stderr": pytest.approx(scored[1], rel=1e-6),
        },
    }
    assert not any(math.isnan(value) for one in rates.values() for value in one.values())


def test_a_task_asked_of_the_runs_model_gives_its_answers_and_its_unsafe_rate(sql, organism_run, tmp_path):
    task = TASKS["vlsafe"](path=str(organism_run / "vlsafe.jsonl"), images="organism://images", anchors=0.2)
    model = get_model("cmrm/organism", shift="latest", arm="plain", store=str(organism_run / "store"))
    log = evaluate(task, tmp_path, model=model)
    stored = dict(
        sql.sql(
            "SELECT sample_id, answer FROM responses WHERE dataset = 'vlsafe' AND condition = 'image'"
        ).fetchall()
    )
    assert len(stored) > 8
    assert {sample.id: sample.output.completion for sample in log.samples or ()} == stored
    (unsafe,) = sql.sql(
        "SELECT avg((verdict = 'unsafe')::INT) FROM judgements "
        "WHERE dataset = 'vlsafe' AND condition = 'image' AND judge = 'refusal'"
    ).fetchall()
    assert read_rates(log)["refusal"]["unsafe"] == pytest.approx(unsafe[0])
