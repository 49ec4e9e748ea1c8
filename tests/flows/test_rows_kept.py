"""No row is lost, whatever fails and wherever: faults are injected into every stage of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pyarrow as pa
import pytest
import torch

from cmrm.errors import UserError
from storage.errors import StoreError
from storage.sql.database import connect
from storage.store import Store
from storage.tables.parquet import TableWriter
from tasks.core.commit import RowsLostError
from tests.flows.shared_runs import run_plainly

# Every row of a store but for what differs between two runs by chance: times, and order.
TABLES = ("samples", "hidden_states", "responses", "judgements", "quarantine")


@pytest.fixture(scope="module")
def calm(
    llava_folder: Path, tmp_path_factory: pytest.TempPathFactory, write_short_spec: Callable[..., Path]
) -> Path:
    """A spec with its data, and the store of a run in which nothing failed."""
    folder = tmp_path_factory.mktemp("calm")
    spec = write_short_spec(
        folder / "data",
        llava_folder,
        interventions=[{"name": "CMRM", "alpha": 1.0}, {"name": "own", "level": "sample", "alpha": 0.5}],
        overhead={"samples": 4, "repeats": 1, "batch_size": 4},
        batch_size=8,
        judges=["refusal"],
    )
    run_plainly(spec, folder / "store")
    return folder


@pytest.fixture
def spec(calm: Path) -> Path:
    return calm / "data" / "spec.yaml"


def count_rows(store: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of the store by the columns that name it."""
    with connect(store) as sql:
        found = {}
        for table in TABLES:
            columns = [name for name, *_ in sql.sql(f"DESCRIBE {table}").fetchall()]
            names = [name for name in columns if name in NAMING]
            found[table] = sorted(sql.sql(f"SELECT {', '.join(names)} FROM {table}").fetchall(), key=str)
    return found


NAMING = {
    "dataset",
    "sample_id",
    "condition",
    "block",
    "position",
    "intervention",
    "alpha",
    "judge",
    "reason",
    "answer",
    "verdict",
}


def fail_once(
    patch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception, *, call: int
) -> Counter[str]:
    """Let the `call`-th call of `owner.name` from now on raise an error."""
    whole, calls = getattr(owner, name), Counter[str]()

    def fail(*arguments: Any, **more: Any) -> Any:
        calls[name] += 1
        if calls[name] == call:
            raise error
        return whole(*arguments, **more)

    patch.setattr(owner, name, fail)
    return calls


@pytest.mark.parametrize("call", [1, 2, 5, 9])
def test_an_oom_in_the_writer_ends_the_run_in_a_line_and_the_same_command_goes_on(
    calm: Path, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    store = tmp_path / "store"
    with monkeypatch.context() as patch:
        fail_once(patch, TableWriter, "write", MemoryError("no room"), call=call)
        with pytest.raises((StoreError, UserError), match="out of memory"):
            run_plainly(spec, store)
    run_plainly(spec, store)
    assert count_rows(store) == count_rows(calm / "store")


# Preparing a batch, the copy from the device, and the model itself: with smaller batches the run goes on.
HALVED = {
    "preparing to embed": ("tasks.states.extract", "prepare_batch", MemoryError(), 1),
    "preparing to answer": ("tasks.generate.prepare", "prepare_batch", MemoryError(), 1),
    "preparing to time": ("tasks.overhead", "prepare_batch", MemoryError(), 1),
    "opening an image": ("tasks.shards.prompts", "open_image", MemoryError(), 3),
    "the copy from the device": (
        "cmrm.decoding.scheduler.Arriving",
        "wait",
        torch.OutOfMemoryError("out of memory"),
        2,
    ),
    "the model's pass": ("cmrm.decoding.positions", "embed", torch.OutOfMemoryError("out of memory"), 2),
    "a sample's own shift": (
        "cmrm.steering.shift",
        "measure_sample_shift",
        torch.OutOfMemoryError("out of memory"),
        1,
    ),
    "answering": ("cmrm.decoding.api", "_answer_together", RuntimeError("CUDA error: out of memory"), 1),
    "timing": ("tasks.overhead", "_answer", torch.OutOfMemoryError("out of memory"), 2),
}


@pytest.mark.parametrize("place", HALVED)
def test_an_oom_anywhere_in_a_batch_costs_no_row_and_the_run_goes_on(
    calm: Path, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    where, name, error, call = HALVED[place]
    calls = fail_once(monkeypatch, resolve_name(where), name, error, call=call)
    run_plainly(spec, tmp_path / "store")
    assert calls[name] > call
    assert count_rows(tmp_path / "store") == count_rows(calm / "store")


@pytest.mark.parametrize("call", [1, 3, 6, 8, 10])
def test_a_commit_that_fails_leaves_nothing_and_the_same_command_goes_on(
    calm: Path, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    store = tmp_path / "store"
    with monkeypatch.context() as patch:
        fail_once(patch, Store, "_keep", MemoryError(), call=call)
        with pytest.raises((StoreError, UserError), match="out of memory"):
            run_plainly(spec, store)
    run_plainly(spec, store)
    assert count_rows(store) == count_rows(calm / "store")


def drop_a_row(table: Any) -> Any:
    """The same without its last row, or without the last sample's."""
    if isinstance(table, pa.Table):
        last = table["sample_id"][-1].as_py() if table.num_rows else None
        return table.filter(pa.array([name != last for name in table["sample_id"].to_pylist()], pa.bool_()))
    return list(table)[:-1]


# Where rows are made, in each stage: the function that makes them, as its module calls it.
MAKERS = {
    "ingest": ("tasks.data.ingest", "screen"),
    "embed": ("tasks.states.extract", "hidden_states_table"),
    "generate": ("tasks.generate.answer_writer", "from_rows"),
    "judge": ("tasks.judge.stage", "from_rows"),
    "overhead": ("tasks.overhead", "_interleave"),
}


@pytest.mark.parametrize("stage", MAKERS)
def test_a_row_that_is_lost_where_rows_are_made_fails_the_job(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    module, name = MAKERS[stage]
    owner = import_module(module)
    make, lost = getattr(owner, name), Counter[str]()

    def make_fewer(*arguments: Any, **more: Any) -> Any:
        made = make(*arguments, **more)
        if lost[stage]:
            return made
        lost[stage] += 1
        return drop_a_row(made)

    monkeypatch.setattr(owner, name, make_fewer)
    with pytest.raises(RowsLostError, match=rf"^{stage} .*missing"):
        run_plainly(spec, tmp_path / "store")
    assert lost[stage] == 1


def test_the_store_of_a_run_in_which_nothing_failed_has_each_row_once(calm: Path) -> None:
    for table, rows in count_rows(calm / "store").items():
        assert rows or table == "quarantine"
        assert max(Counter(rows).values(), default=1) == 1
