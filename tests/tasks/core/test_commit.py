"""Rows written ∪ rows quarantined = rows requested, each once: else nothing is committed."""

from __future__ import annotations

import ast
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import StoreError
from storage.records.manifest import Manifest
from storage.shards.rows import read_rows
from storage.shards.writer import ShardWriter
from storage.store import Store
from storage.tables.arrow import from_rows
from storage.tables.parquet import TableWriter
from tasks.core.commit import NO_ROWS, Rows, RowsLostError, check_rows, commit_rows, commit_shard
from tasks.core.stage import Job
from tests.small_job import AnswerJob

ROOT = Path(__file__).parents[3]
NAMES = st.lists(st.sampled_from("abcd"), max_size=5)


def make_job(store: Path) -> AnswerJob:
    return AnswerJob(store=str(store), label="d query", rows=4)


def make_table(names: str) -> pa.Table:
    row = {"model": "m", "dataset": "d", "condition": "query", "intervention": "", "answer": "yes"}
    return from_rows([row | {"sample_id": name, "answer_digest": "0"} for name in names], "responses")


def make_quarantine(name: str) -> dict[str, Any]:
    return {"stage": "generate", "dataset": "d", "sample_id": name, "line": 1, "reason": "bad", "raw": ""}


@given(asked=NAMES, written=NAMES, quarantined=NAMES, each=st.integers(1, 3))
def test_rows_pass_just_where_written_and_quarantined_are_what_was_asked_for(
    asked: list[str], written: list[str], quarantined: list[str], each: int
) -> None:
    right = sorted(asked) == sorted(written + quarantined)
    rows = Rows(asked=asked, written=written * each, quarantined=quarantined, rows_each=each)
    if right:
        check_rows(make_job(Path()), rows)
    else:
        with pytest.raises(RowsLostError, match=r"generate d query: of .* rows asked for"):
            check_rows(make_job(Path()), rows)


def test_the_message_counts_and_names_what_is_lost_and_what_is_surplus() -> None:
    with pytest.raises(RowsLostError) as told:
        check_rows(make_job(Path()), Rows(asked="abcdef", written="aab", quarantined="f"))
    assert str(told.value).startswith(
        "generate d query: of 6 rows asked for, 3 are missing ('c', 'd', 'e'); 1 are there too often ('a'). Nothing"
    )
    check_rows(make_job(Path()), NO_ROWS)


def test_a_block_that_lacks_a_sample_is_a_row_lost() -> None:
    with pytest.raises(RowsLostError, match="1 are missing"):
        check_rows(make_job(Path()), Rows(asked="ab", written="aaabb", rows_each=3))


def write_shard(store: Store, job: Job, names: str, *, asked: str, quarantined: str = "") -> Manifest:
    with ShardWriter(store, "generate", job.key, "responses") as writer:
        resumed = writer.resume("sample_id")["sample_id"].to_pylist()
        writer.append(make_table("".join(name for name in names if name not in resumed)))
        rows = [make_quarantine(name) for name in quarantined if name not in resumed]
        return commit_shard(
            job, store, writer, asked=asked, kind="responses", quarantined=rows, provenance={}
        )


@pytest.mark.parametrize(("written", "resumed"), [("abd", "abd"), ("abccd", "")])
def test_a_shard_with_a_row_lost_or_surplus_is_not_committed(
    tmp_path: Path, written: str, resumed: str
) -> None:
    job, store = make_job(tmp_path), Store.create(tmp_path)
    with pytest.raises(RowsLostError):
        write_shard(store, job, written, asked="abcd")
    assert store.find("generate", job.key) is None
    # What is merely incomplete is resumed from; what has a row twice is begun anew.
    manifest = write_shard(store, job, "abc", asked="abcd", quarantined="d")
    ids = read_rows(store, manifest, "responses")["sample_id"].to_pylist()
    assert sorted(ids) == sorted({*"abc", *resumed})


def test_rows_in_memory_pass_through_the_same_check(tmp_path: Path) -> None:
    job, store = make_job(tmp_path), Store.create(tmp_path)
    with pytest.raises(RowsLostError):
        commit_rows(
            job,
            store,
            kind="responses",
            table=make_table("a"),
            rows=Rows(asked="ab", written="a"),
            quarantined=[],
            provenance={},
        )
    assert store.find("generate", job.key) is None


@pytest.mark.parametrize("kind", [MemoryError, pa.ArrowMemoryError])
def test_an_oom_of_the_writer_is_no_oom_of_the_model_and_its_rows_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    job, store = make_job(tmp_path), Store.create(tmp_path)
    write, calls = TableWriter.write, Counter[str]()

    def fail_once(self: TableWriter, table: pa.Table) -> None:
        calls["write"] += 1
        if calls["write"] == 1:
            raise kind("no room")
        write(self, table)

    monkeypatch.setattr(TableWriter, "write", fail_once)
    writer = ShardWriter(store, "generate", job.key, "responses", clock=count(step=60).__next__)
    writer.append(make_table("a"))
    # Whoever goes on after the first error gets it again.
    for _ in range(3):
        with pytest.raises(StoreError, match="this process ran out of memory"):
            writer.finish()
    writer.__exit__(StoreError, StoreError(), None)
    assert calls["write"] == 1
    assert sorted(
        read_rows(store, write_shard(store, job, "ab", asked="ab"), "responses")["sample_id"].to_pylist()
    ) == ["a", "b"]


def test_every_commit_of_a_stage_passes_through_the_check() -> None:
    """`Store.commit` is called in one place of the stages and flows."""
    callers = {
        path.relative_to(ROOT).as_posix()
        for folder in ("tasks", "flows")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "commit"
        and not (isinstance(node.func.value, ast.Name) and node.func.value.id == "arm")
    }
    assert callers == {"tasks/core/commit.py"}
