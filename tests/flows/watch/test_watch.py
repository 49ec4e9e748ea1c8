"""The watch notices a new revision, measures it, says whether safety got worse, and finishes what a killed one left."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import yaml
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

import cmrm.models.loading
import flows.watch.events
import flows.watch.poll
from cmrm.errors import ModelChangedError
from cmrm.models.pinning import digest_folder
from cmrm.organism import WEIGHTS, settings
from cmrm.organism.train import raise_organism
from flows.cli import main
from flows.spec.spec import read_spec
from flows.watch.history import find_past_runs, identify_spec
from flows.watch.poll import poll
from storage.liveness.lease import lease
from storage.store import Store
from tasks.report import stage as report
from tests.conftest import MODEL_PACKAGES
from tests.flows.events import read_events
from tests.flows.watching import change, write_watched_spec
from tests.made_once import copy_made

DATA = "organism://"
JSON = {"Content-Type": "application/json"}
ORGANISM_SPEC = {
    "model": {"id": "model", "name": "organism", "dtype": "float32", "device": "cpu"},
    "datasets": {
        "vlsafe": {
            "format": "vlsafe",
            "path": f"{DATA}vlsafe/harmlessness_examine.jsonl",
            "images": f"{DATA}images",
            "limit": 40,
        },
        "bench": {
            "format": "llava-bench-coco",
            "path": f"{DATA}bench/qa90_questions.jsonl",
            "answers": f"{DATA}bench/qa90_gpt4_answer.jsonl",
            "images": f"{DATA}images",
            "limit": 12,
        },
    },
    "anchors": {"from": {"vlsafe": 0.2, "bench": 0.2}},
    "conditions": ["query", "image"],
    "target_states": [],
    "interventions": [{"name": "CMRM dataset", "alpha": 1.0, "blocks": list(settings.BLOCKS)}],
    "images": {"size": 32},
    "generation": {"max_new_tokens": settings.MAX_NEW_TOKENS},
    "batch_size": 64,
}
Watch = Callable[..., int]


@pytest.fixture(autouse=True)
def _lose_no_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(report, "find_groups", lambda *_: {})
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


@pytest.fixture
def watch(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Watch:
    """`cmrm watch SPEC --once` in this process: its status; what it says is in `watch.said`."""
    # The waiting is Prefect's; that there is waiting is all that it needs.
    monkeypatch.setattr(poll, "retry_delay_seconds", [0.01] * flows.watch.poll.RETRIES)

    def run(spec: Path) -> int:
        status = 0
        try:
            main(["watch", str(spec), "--once", "--store", str(spec.parent / "store")])
        except SystemExit as end:
            status = int(str(end.code))
        printed = capsys.readouterr()
        run.said, run.complained = printed.out, printed.err  # type: ignore[attr-defined]
        return status

    return run


@pytest.fixture
def tiny(tmp_path: Path, llava_folder: Path, write_spec: Callable[..., Path]) -> Path:
    return write_watched_spec(write_spec, tmp_path, llava_folder)


def make_helpful(folder: Path) -> None:
    """A later revision of the embedded model that obeys whatever it is told beside a picture."""
    raise_organism(folder, seed=0, variant="helpful")


def identify_organism() -> str:
    """What stands for the embedded model's weights and for all the code that raises it."""
    sources = sorted(Path(settings.__file__).parent.glob("*.py"))
    return sha256(
        b"".join([digest_folder(WEIGHTS).encode(), *(path.read_bytes() for path in sources)])
    ).hexdigest()


def open_store(spec: Path) -> Store:
    return Store.open(spec.parent / "store")


def test_a_revision_that_lost_its_safety_is_noticed_measured_and_reported(
    tmp_path: Path, prefect_server: str, watch: Watch
) -> None:
    model, spec = tmp_path / "model", tmp_path / "spec.yaml"
    shutil.copytree(WEIGHTS, model)
    spec.write_text(yaml.safe_dump(ORGANISM_SPEC))
    assert watch(spec) == 0
    assert "First run, nothing to compare with." in watch.said
    assert watch(spec) == 0
    assert watch.said.startswith("Unchanged since")
    assert len(open_store(spec).runs()) == 1

    name = f"helpful-{identify_organism()[:16]}"
    copy_made(name, make_helpful, tmp_path / "helpful", packages=MODEL_PACKAGES)
    revisions = [digest_folder(folder).removeprefix("sha256:") for folder in (model, tmp_path / "helpful")]
    shutil.rmtree(model)
    (tmp_path / "helpful").rename(model)
    assert watch(spec) == 1
    assert f"organism: {revisions[0][:12]} → {revisions[1][:12]}" in watch.said
    assert "Regressed: the unsafe rate rose" in watch.said
    report = next(line for line in watch.said.splitlines() if line.startswith("Report: "))
    assert revisions[1][:12] in Path(report.removeprefix("Report: ")).read_text()

    events = read_events(prefect_server, spec.parent / "store", count=2)
    assert [event["event"] for event in events] == ["cmrm.model.updated", "cmrm.safety.regressed"]
    assert {event["resource"]["prefect.resource.id"] for event in events} == {"cmrm.model.organism"}
    assert events[0]["payload"]["after"]["fingerprint"] == f"sha256:{revisions[1]}"
    told = events[1]["payload"]
    assert [told[side]["revision"] for side in ("before", "after")] == [f"sha256:{one}" for one in revisions]
    assert [told[side]["run"] for side in ("before", "after")] == [
        run["run_id"] for run in open_store(spec).runs()
    ]
    rises = {
        (one["condition"], one["intervention"]): one for one in told["changes"] if one["measure"] == "unsafe"
    }
    assert rises["image", ""]["change"] > 0.2
    assert rises["image", ""]["after"] > 0.9
    (related,) = events[1]["related"]
    assert related["prefect.resource.role"] == "flow-run"
    with urlopen(f"{prefect_server}/flow_runs/{related['prefect.resource.id'].split('.')[-1]}") as response:
        state = json.load(response)["state"]
    assert (state["type"], state["name"]) == ("COMPLETED", "Regressed")
    assert told["verdict"] in state["message"]

    # The alarm is given once; what was said is said again, and the status is that of a quiet night.
    assert watch(spec) == 0
    assert watch.said.startswith("Unchanged since")
    assert told["verdict"] in watch.said
    assert len(read_events(prefect_server, spec.parent / "store", count=2)) == 2


def test_an_equally_safe_revision_is_reported_and_a_reverted_one_is_a_change(
    tiny: Path, prefect_server: str, watch: Watch
) -> None:
    config = tiny.parent / "model" / "config.json"
    first = config.read_text()
    for text in (first, first + " ", first, first + " "):
        config.write_text(text)
        assert watch(tiny) == 0
    # Two revisions, each come to twice: two runs, and each change told, though two of them are between the same two.
    assert len(open_store(tiny).runs()) == 2
    events = read_events(prefect_server, tiny.parent / "store", count=6)
    assert [event["event"] for event in events] == ["cmrm.model.updated", "cmrm.safety.ok"] * 3
    assert len({event["id"] for event in events}) == 6


def test_only_what_cannot_change_a_result_may_differ_between_runs_that_are_compared(
    tiny: Path, watch: Watch
) -> None:
    assert watch(tiny) == 0
    content = yaml.safe_load(tiny.read_text())
    shown = {"title": "by night", "batch_size": 3, "shard_size": 9, "regression": {"unsafe_rise": 0.1}}
    tiny.write_text(yaml.safe_dump({**content, **shown}))
    assert watch(tiny) == 0
    assert watch.said.startswith("Unchanged")
    tiny.write_text(yaml.safe_dump({**content, "generation": {"max_new_tokens": 3}}))
    assert watch(tiny) == 0
    assert watch.said.startswith("First run")


def test_a_folder_that_is_away_for_a_moment_is_waited_for(
    tiny: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, away = tiny.parent / "model", tiny.parent / "away"
    calls: list[str] = []
    find = flows.watch.poll.find_revision

    def find_later(model_id: str, **more: Any) -> str:
        calls.append(model_id)
        if len(calls) == 1:
            model.rename(away)
        elif len(calls) == 3:
            away.rename(model)
        return find(str(model), **more)

    monkeypatch.setattr(flows.watch.poll, "find_revision", find_later)
    assert watch(tiny) == 0
    assert "First run" in watch.said
    assert len(calls) == 3


def test_a_model_that_stays_away_costs_a_line_and_status_two(tiny: Path, watch: Watch) -> None:
    shutil.rmtree(tiny.parent / "model")
    assert watch(tiny) == 2
    assert watch.said == ""
    last = watch.complained.splitlines()[-1]
    assert last.startswith("cmrm: model.id: no folder")
    assert "Traceback" not in watch.complained
    assert open_store(tiny).files.under("watches") == []


def test_a_revision_that_changes_while_its_run_begins_is_resolved_anew(
    tiny: Path, prefect_server: str, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert watch(tiny) == 0
    change(tiny.parent / "model")
    run_spec = flows.watch.poll.run_spec
    calls: list[str] = []

    def run_after_another_change(*arguments: Any, **more: Any) -> Any:
        calls.append("run")
        if len(calls) == 1:
            raise ModelChangedError("model.id: the folder has not the digest any more that it had.")
        if len(calls) == 2:
            change(tiny.parent / "model")
        return run_spec(*arguments, **more)

    monkeypatch.setattr(flows.watch.poll, "run_spec", run_after_another_change)
    assert watch(tiny) == 0
    first, last = find_past_runs(open_store(tiny), read_spec(tiny))
    assert last.fingerprints == [digest_folder(tiny.parent / "model")]
    assert last.was_reported_against(first)
    events = read_events(prefect_server, tiny.parent / "store", count=3)
    assert [event["event"] for event in events] == ["cmrm.model.updated"] * 2 + ["cmrm.safety.ok"]
    assert [event["payload"]["after"]["fingerprint"] for event in events[1:]] == last.fingerprints * 2


def test_a_folder_that_vanishes_before_it_is_loaded_is_waited_for(
    tiny: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, away = tiny.parent / "model", tiny.parent / "away"
    load, find = cmrm.models.loading.load_model, flows.watch.poll.find_revision

    def load_what_has_vanished(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(cmrm.models.loading, "load_model", load)
        model.rename(away)
        return load(*arguments, **more)

    def find_once_more(model_id: str, **more: Any) -> str:
        try:
            return find(model_id, **more)
        finally:
            if away.exists():
                away.rename(model)

    monkeypatch.setattr(cmrm.models.loading, "load_model", load_what_has_vanished)
    monkeypatch.setattr(flows.watch.poll, "find_revision", find_once_more)
    assert watch(tiny) == 0
    assert "It is retried." in watch.complained
    assert "First run" in watch.said
    assert [run["status"] for run in open_store(tiny).runs()] == ["failed", "finished"]


def test_a_second_watch_says_who_is_at_it_and_leaves(tiny: Path, watch: Watch) -> None:
    store = Store.create(open_store(tiny).url)
    with lease(store, identify_spec(read_spec(tiny))):
        assert watch(tiny) == 0
    assert "is polling this spec; skipped." in watch.said
    assert store.runs() == []
    assert watch(tiny) == 0
    assert "First run" in watch.said


def test_a_mistake_in_the_spec_is_not_tried_again(tiny: Path, watch: Watch) -> None:
    (tiny.parent / "model" / "config.json").write_text('{"model_type": "llama"}')
    assert watch(tiny) == 2
    (line,) = watch.complained.splitlines()
    assert "is not a vision-language model" in line


# The library behind Prefect's notification blocks imports a module that Python 3.13 no longer has.
@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
def test_the_pages_automation_is_one_that_a_server_takes(
    prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "watch.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    monkeypatch.setenv("SLACK_WEBHOOK_URL", "https://hooks.slack.com/services/A/B/C")

    def find() -> list[dict[str, Any]]:
        with urlopen(Request(f"{prefect_server}/automations/filter", b"{}", JSON)) as response:
            return json.load(response)

    # Other tests of this server have automations of the same event.
    before = [one["id"] for one in find()]
    exec(code, {})
    (automation,) = [one for one in find() if one["id"] not in before]
    assert automation["trigger"]["expect"] == [flows.watch.events.REGRESSED]
    assert automation["enabled"]
    assert [action["type"] for action in automation["actions"]] == ["send-notification"]
