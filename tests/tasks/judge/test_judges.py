"""A judge as a spec has it: its options checked, its copy kept, its jobs sent, and its rows counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cmrm.errors import UserError
from cmrm.judges import Verdict
from cmrm.prompts.conditions import make_meaningless
from storage.records.hashing import stage_key
from storage.records.manifest import Manifest
from storage.store import Store
from storage.tables.arrow import from_rows, table_path
from storage.tables.parquet import to_parquet
from tasks.core import models
from tasks.job_codec import pack_jobs, unpack_jobs
from tasks.judge.loaded import JudgeUse, load_judge, read_judge, resolve_judge
from tasks.judge.stage import JudgeJob
from tasks.report.judge_costs import describe_judges
from tasks.shards.prompts import PromptBuilder
from tasks.shards.samples import Shard, Slice
from tests.users_judges import install


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(install(tmp_path / "site-packages")))


def make_job(judge: JudgeUse, **update: Any) -> JudgeJob:
    shard = Shard(dataset="d", ingest="0" * 64, split="target", start=0, stop=4)
    showing = PromptBuilder(
        images=Path("pictures"), meaningless=make_meaningless(size=32, color=(1, 2, 3), seed=0), system=None
    )
    given: dict[str, Any] = {
        "store": "s",
        "label": "d blank, judge",
        "rows": 4,
        "judge": judge,
        "responses": "1" * 64,
        "slice": Slice(shard=shard, condition="blank", rows=4, digest="2" * 64),
        "showing": showing,
        "digest": "3" * 64,
    }
    return JudgeJob(**given | update)


def test_options_are_of_their_fields_types_and_only_those_that_are_given_are_kept() -> None:
    use = read_judge("strict", {"lengths": [1, "2"], "batch_size": "8"})
    assert use == JudgeUse(kind="strict", name="strict", options={"lengths": [1, 2], "batch_size": 8})
    assert load_judge(use).spec() == {"judge": "strict", "lengths": [1, 2]}
    assert use.describe() == {
        "name": "strict",
        "kind": "strict",
        "model": None,
        "revision": None,
        "price": None,
    }


@pytest.mark.parametrize(
    ("options", "place", "part"),
    [
        ({"lengths": ["x"]}, ("lengths", 0), "valid integer"),
        (
            {"length": [1]},
            ("length",),
            "judge 'strict' has no such option; it has name, lengths, price, batch_size",
        ),
        ({"price": {"prompt": "dear"}}, ("price", "prompt"), "valid number"),
        ({"name": None}, ("name",), "valid string"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], place: tuple[Any, ...], part: str) -> None:
    with pytest.raises(ValidationError) as told:
        read_judge("strict", options)
    (problem,) = told.value.errors()
    assert problem["loc"] == place
    assert part in problem["msg"]


def test_a_resolved_judge_keeps_its_options_and_pins_its_revision(tmp_path: Path) -> None:
    (tmp_path / "weights.txt").write_text("5")
    use = read_judge("weighing", {"model": str(tmp_path), "name": "guard"})
    pinned = resolve_judge(use)
    assert pinned.options == {"name": "guard", "model": str(tmp_path), "revision": f"sha256:{'5':0>64}"}
    assert pinned.describe()["revision"] == pinned.options["revision"]
    assert make_job(pinned).content()["judge"] == {"judge": "weighing", "model": pinned.options["revision"]}
    with pytest.raises(UserError, match="'oracle' is unknown"):
        read_judge("oracle", {})


def test_a_judge_that_holds_a_model_is_kept_alone_and_on_the_processs_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(models.DEVICE_VARIABLE, "cuda:1")
    uses = [
        JudgeUse(kind="weighing", name=name, options={"model": str(tmp_path), "device": device, "name": name})
        for name, device in (("a", "cuda"), ("b", "cpu"))
    ]
    models.load_once("a VLM", object)
    first = load_judge(uses[0])
    assert load_judge(uses[0]) is first
    assert [*models._loaded] == [uses[0]]
    assert (first.device, load_judge(uses[1]).device) == ("cuda:1", "cpu")  # type: ignore[attr-defined]
    # Those without a model stay, and leave what is loaded alone.
    light = read_judge("strict", {})
    assert load_judge(light) is load_judge(read_judge("strict", {}))
    assert [*models._loaded] == [uses[1]]
    models.forget_models()


@pytest.mark.parametrize("showing", [True, False])
def test_a_job_travels_as_json_and_keeps_its_key(showing: bool) -> None:  # noqa: FBT001 - a parameter of the test
    use = read_judge("strict", {"lengths": [1], "price": {"prompt": 2.0}, "name": "mild"})
    job = make_job(use) if showing else make_job(use, showing=None)
    stage, (arrived,) = unpack_jobs("judge", json.loads(json.dumps(pack_jobs([job]))))
    assert (stage.place, arrived, arrived.key) == ("devices", job, job.key)


def test_a_key_is_of_the_judge_its_name_and_what_it_is_shown() -> None:
    keys = [
        make_job(read_judge("strict", options), **update).key
        for options, update in (
            ({}, {}),
            ({"lengths": [2]}, {}),
            ({"name": "mild"}, {}),
            ({}, {"digest": "4" * 64}),
            (
                {"price": {"prompt": 1.0}, "batch_size": 1},
                {"responses": "5" * 64, "showing": None, "label": "x"},
            ),
        )
    ]
    assert len({*keys[:4]}) == 4
    assert keys[4] == keys[0]


def commit_verdicts(store: Store, judge: str, verdicts: Sequence[Verdict]) -> Manifest:
    rows = [
        {
            "judge": judge,
            "model": "m@1",
            "dataset": "d",
            "condition": "query",
            "intervention": "",
            "sample_id": str(place),
            "answer_digest": "0",
            "verdict": verdict.verdict,
            "prompt_tokens": None if verdict.usage is None else verdict.usage.prompt_tokens,
            "completion_tokens": None if verdict.usage is None else verdict.usage.completion_tokens,
        }
        for place, verdict in enumerate(verdicts)
    ]
    key = stage_key("judge", {"judge": judge, "rows": rows})
    table = to_parquet(from_rows(rows, "judgements"), "judgements")
    return store.commit("judge", key, {table_path("judgements", key): table})


def test_verdicts_tokens_and_dollars_are_added_up_by_judge(tmp_path: Path) -> None:
    from cmrm.judges import Usage

    store = Store.create(tmp_path / "store")
    asked = Usage(prompt_tokens=1_000_000, completion_tokens=500_000)
    made = [
        commit_verdicts(
            store,
            "guard",
            [Verdict(verdict="safe", usage=asked), Verdict(verdict="parse_error", usage=asked)],
        ),
        commit_verdicts(store, "guard", [Verdict(verdict="not_applicable")]),
        commit_verdicts(store, "match", [Verdict(verdict="correct")]),
    ]
    judges = [
        {"name": name, "kind": name, "model": None, "revision": None, "price": price}
        for name, price in (("guard", {"prompt": 0.1, "completion": 0.4}), ("match", None), ("idle", None))
    ]
    guard, match, idle = describe_judges(store, made, judges)
    counts = ("verdicts", "parse_errors", "not_applicable", "prompt_tokens", "completion_tokens")
    assert [getattr(guard, name) for name in counts] == [1, 1, 1, 2_000_000, 1_000_000]
    assert guard.dollars == pytest.approx(2 * 0.1 + 1 * 0.4)
    assert [getattr(match, name) for name in (*counts, "dollars")] == [1, 0, 0, None, None, None]
    assert [getattr(idle, name) for name in counts] == [0, 0, 0, None, None]
