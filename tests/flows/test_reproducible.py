"""`reproducible: true`: in half precision, the same batches and so the same bits, whatever happened before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import cmrm.decoding.api
import cmrm.decoding.positions
from cmrm.errors import UserError
from flows.spec.spec import FIXED_BATCH, read_spec
from storage.sql.database import connect
from storage.store import Store
from tasks.generate import prepare as group
from tasks.report.summary import Summary
from tasks.shards.precision import describe_precision, gather_precision
from tasks.states import extract as embed
from tests.flows.shared_runs import run_plainly

Batches = list[tuple[str, ...]]
STRONG = {"name": "CMRM", "alpha": 1.0}
WEAK = {"name": "weak", "level": "sample", "alpha": 0.5}


@pytest.fixture(scope="module")
def write(
    llava_folder: Path, tmp_path_factory: pytest.TempPathFactory, write_short_spec: Callable[..., Path]
) -> Callable[..., Path]:
    """The writer of specs for the model in bfloat16: `write(**changed fields)`."""

    def write_half(*, dtype: str = "bfloat16", **changes: Any) -> Path:
        fields = {"reproducible": True, "batch_size": 3, "interventions": [STRONG, WEAK], **changes}
        spec = write_short_spec(tmp_path_factory.mktemp("half"), llava_folder, **fields)
        written = yaml.safe_load(spec.read_text())
        spec.write_text(yaml.safe_dump({**written, "model": written["model"] | {"dtype": dtype}}))
        return spec

    return write_half


def record(patch: pytest.MonkeyPatch) -> Batches:
    """The ids of the samples in each batch that is made ready for the model from now on."""
    batches: Batches = []
    for module in (embed, group):
        prepare = module.prepare_batch

        def take_note(
            renderer: Any, showing: Any, batch: Sequence[Any], *more: Any, prepare: Any = prepare, **rest: Any
        ) -> Any:
            batches.append(tuple(stored.sample.id for stored in batch))
            return prepare(renderer, showing, batch, *more, **rest)

        patch.setattr(module, "prepare_batch", take_note)
    return batches


def read(store: Path) -> list[tuple[Any, ...]]:
    """All states, to the bit, and all answers."""
    with connect(store) as sql:
        states = sql.sql(
            "SELECT sample_id, condition, block, position, vector::VARCHAR FROM hidden_states"
        ).fetchall()
        answers = sql.sql("SELECT sample_id, condition, intervention, answer FROM responses").fetchall()
    return sorted(map(str, [*states, *answers]))


def interrupt(patch: pytest.MonkeyPatch, owner: Any, name: str, *, call: int) -> None:
    """Let the `call`-th call of `owner.name` be the moment at which somebody presses Control-C."""
    whole, calls = getattr(owner, name), []

    def stop(*arguments: Any, **more: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt
        return whole(*arguments, **more)

    patch.setattr(owner, name, stop)


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A run that nothing interrupted: its spec, its store, its batches, and what its report is made of."""

    spec: Path
    store: Path
    batches: Batches
    summary: Summary


@pytest.fixture(scope="module")
def whole(write: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    positions = ["last", "mean_image", "first_answer"]
    spec, store = write(positions=positions), tmp_path_factory.mktemp("whole") / "store"
    with pytest.MonkeyPatch.context() as patch:
        batches = record(patch)
        summary = run_plainly(spec, store).summary
    return Whole(spec=spec, store=store, batches=batches, summary=summary)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When a run is interrupted: at the `call`-th call of `owner.name`."""

    owner: Any
    name: str
    call: int


MOMENTS = {
    "at the third batch of states": Moment(owner=cmrm.decoding.positions, name="embed", call=3),
    "at the second batch at first answer tokens": Moment(
        owner=cmrm.decoding.positions, name="embed_first_answer", call=2
    ),
    "at the third batch at image tokens": Moment(
        owner=cmrm.decoding.positions.ImageStates, name="read", call=3
    ),
    "at the second batch of answers of a later arm": Moment(
        owner=cmrm.decoding.api, name="_answer_together", call=8
    ),
}


@pytest.mark.parametrize("when", MOMENTS)
def test_a_run_that_goes_on_after_an_interrupt_makes_the_same_batches_and_bits(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    moment = MOMENTS[when]
    with monkeypatch.context() as patch:
        interrupt(patch, moment.owner, moment.name, call=moment.call)
        with pytest.raises(KeyboardInterrupt):
            run_plainly(whole.spec, tmp_path / "cut")
    with monkeypatch.context() as patch:
        rest = record(patch)
        run_plainly(whole.spec, tmp_path / "cut")
    assert 0 < len(rest) < len(whole.batches)
    assert set(rest) <= set(whole.batches)
    assert read(tmp_path / "cut") == read(whole.store)


def test_answers_under_an_intervention_do_not_depend_on_which_others_are_answered(
    whole: Whole, write: Callable[..., Path], tmp_path: Path
) -> None:
    run_plainly(write(interventions=[STRONG]), tmp_path / "added")
    run_plainly(whole.spec, tmp_path / "added")
    assert read(tmp_path / "added") == read(whole.store)


def test_fixed_batches_are_in_the_keys_and_other_batches_are_other_bits(
    whole: Whole, write: Callable[..., Path], tmp_path: Path
) -> None:
    free = run_plainly(write(reproducible=False, batch_size=5), tmp_path / "free")
    for stage in ("embed", "generate"):
        fixed, others = (
            {one.key for one in Store.open(place).manifests(stage)}
            for place in (whole.store, tmp_path / "free")
        )
        assert fixed
        assert fixed.isdisjoint(others)
    # Were it not so, the other tests would show nothing.
    assert read(tmp_path / "free") != read(whole.store)
    (line,) = describe_precision(free.summary.precision)
    assert line.startswith(
        "Answers were made in bfloat16, in batches that follow free memory: in half precision"
    )
    (line,) = describe_precision(whole.summary.precision)
    assert line == "Answers were made in bfloat16, in fixed batches of 3 (reproducible: true)."


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"batch_size": 3}, 3),
        ({"batch_size": "auto"}, FIXED_BATCH),
        ({"reproducible": False}, None),
        ({"reproducible": False, "batch_size": 5}, None),
    ],
)
def test_a_spec_fixes_batches_of_its_own_size_or_the_stated_one(
    write: Callable[..., Path], changes: dict[str, Any], size: int | None
) -> None:
    assert read_spec(write(**changes)).fixed_batch == size


def test_a_fixed_batch_that_does_not_fit_is_an_error_and_no_smaller_one_is_tried(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(cmrm.decoding.positions, "embed", run_out)
    with pytest.raises(
        UserError, match=r"batch of 3, and reproducible: true allows no smaller one\. Give a smaller"
    ):
        run_plainly(whole.spec, tmp_path / "store")


def test_nothing_is_said_of_batches_in_full_precision(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    for number, dtype in enumerate(("float32", "float64")):
        store.commit("generate", f"{number:064x}", {}, content={"of": dtype}, provenance={"dtype": dtype})
    assert len([*store.manifests("generate")]) == 2
    assert gather_precision(store.manifests("generate")) == []
