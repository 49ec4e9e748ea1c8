"""Judges of a user's own in a spec and added to a finished run, whose answers are not made again."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

import cmrm.models.loading
from cmrm.errors import UserError
from flows.cli import main
from flows.run import run_spec
from flows.spec.spec import read_spec
from storage.records.checksummed_json import seal
from storage.sql.database import connect
from storage.store import Store
from tasks.core import models
from tasks.report import stage as report
from tests.endpoint_server import Endpoint, find
from tests.flows.shared_runs import run_plainly
from tests.forked import Forker
from tests.users_judges import JUDGED, LOADED

pytestmark = pytest.mark.usefixtures("prefect_server")

ROOT = Path(__file__).parents[3]
# Each verdict is put down as it comes, and the judge, which runs ahead, is told.
KILLED_JUDGING = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import storage.shards.writer, tasks.judge.stage
from tests.users_judges import FLUSHED

tasks.judge.stage.PIECE_SECONDS = 0
append = storage.shards.writer.ShardWriter.append
def append_and_flush(self, rows):
    append(self, rows)
    self._submit(self._close_part)
    self._wait(0)
    FLUSHED.extend(rows["sample_id"].to_pylist())
storage.shards.writer.ShardWriter.append = append_and_flush

from flows.cli import main
main(sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def _lose_no_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(report, "find_groups", lambda *_: {})
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


@pytest.fixture(scope="module")
def finished(
    llava_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    write_short_spec: Callable[[Path, Path], Path],
) -> Path:
    """A folder with a finished run: its model, spec and store."""
    folder = tmp_path_factory.mktemp("finished")
    model = shutil.copytree(llava_folder, folder / "moon")
    spec = write_short_spec(folder / "data", model)
    run_plainly(spec, folder / "store")
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path, users_judges: Path) -> Path:
    """The finished run's store alone: its model and spec lie elsewhere."""
    return Path(shutil.copytree(finished / "store", tmp_path / "store")).parent


@pytest.fixture
def no_model(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody loads the model, and nobody could: its folder is elsewhere for a while."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was to be loaded")

    monkeypatch.setattr(cmrm.models.loading, "load_model", refuse)
    models.forget_models()
    (finished / "moon").rename(finished / "gone")
    yield
    (finished / "gone").rename(finished / "moon")


def judge(folder: Path, *judges: str, run: str = "latest") -> dict[str, Any]:
    """`cmrm judge`; the record of the run that is the latest then."""
    store = str(folder / "store")
    main(["judge", run, *(word for one in judges for word in ("--judge", one)), "--store", store])
    return Store.open(store).find_run("latest")


def ask(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with connect(folder / "store", run="latest") as sql:
        return sql.sql(query).fetchall()


def fail(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("no_model")
def test_a_judge_is_added_without_the_model_and_kappa_is_printed(
    folder: Path, commits: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "guard.yaml"
    file.write_text(yaml.safe_dump({"kind": "strict", "price": {"prompt": 1000, "completion": 5000}}))
    record = judge(folder, str(file), "strict:lengths=[3, 4],name=mild")
    assert commits == {"judge": 12, "report": 1}
    mild = {"kind": "strict", "lengths": [3, 4], "name": "mild"}
    assert record["spec"]["judges"] == ["refusal", "match", yaml.safe_load(file.read_text()), mild]
    shown = " ".join(capsys.readouterr().out.split())
    assert re.search(r"Agreement: refusal and strict \(unsafe\) κ 0\.00, \d+ answers; ", shown)
    assert re.search(r"; strict and mild \(unsafe\) κ −?0\.\d\d \[[−\d., ]+\], 27 answers; ", shown)
    assert "Judges’ tokens: strict read" in shown
    summary = record["summary"]
    assert [one["judge"] for one in summary["table"]["columns"] if one["kind"] == "unsafe"] == [
        "refusal",
        "strict",
        "mild",
    ]
    assert {one["second"] for one in summary["agreement"]} == {"strict", "mild"}
    answers = len(JUDGED) // 2
    told = {one["name"]: one for one in summary["judges"]}
    assert told["strict"]["verdicts"] == answers
    assert told["strict"]["prompt_tokens"] == 100 * answers
    assert told["strict"]["dollars"] == pytest.approx(answers * (100 * 1000 + 10 * 5000) / 1e6)
    assert told["refusal"]["dollars"] is None
    counted = "SELECT sum(prompt_tokens) FROM judgements WHERE judge = 'strict'"
    assert ask(folder, counted) == [(100 * answers,)]
    page = (folder / "store" / "reports" / record["run_id"] / "report.md").read_text()
    assert "| strict | strict |" in page


def test_the_spec_with_the_judge_is_the_same_run(finished: Path, folder: Path, commits: Counter[str]) -> None:
    record = judge(folder, "strict:lengths=[1, 2],name=mild", "overlap")
    commits.clear()
    again = judge(folder, "overlap", "strict:lengths=[1, 2],name=mild")
    assert (again["run_id"], dict(commits)) == (record["run_id"], {})
    # Of the run before it too, which has no such judges.
    (first,) = (run["run_id"] for run in Store.open(folder / "store").runs() if run != again)
    assert (
        judge(folder, "strict:lengths=[1, 2],name=mild", "overlap", run=first)["run_id"] == record["run_id"]
    )
    content = yaml.safe_load((finished / "data" / "spec.yaml").read_text())
    content["judges"] = [
        "refusal",
        "match",
        {"kind": "strict", "lengths": [1, 2], "name": "mild"},
        "overlap",
    ]
    spec = finished / "data" / "extended.yaml"
    spec.write_text(yaml.safe_dump(content))
    assert run_spec(read_spec(spec), store=str(folder / "store")).run_id == record["run_id"]
    assert not commits


def test_a_judge_with_a_model_comes_after_the_answers_and_is_loaded_once(
    finished: Path, folder: Path, commits: Counter[str]
) -> None:
    for name, weights in (("heavy", "1"), ("light", "2")):
        (finished / "data" / name).mkdir(exist_ok=True)
        (finished / "data" / name / "weights.txt").write_text(weights)
    content = yaml.safe_load((finished / "data" / "spec.yaml").read_text())
    # A model's folder starts at the spec's own; the first judge of a spec is the first of its tables.
    content["judges"] = [{"kind": "weighing", "model": name, "name": name} for name in ("heavy", "light")]
    spec = finished / "data" / "weighing.yaml"
    spec.write_text(
        yaml.safe_dump({**content, "judges": [*content["judges"], "refusal"], "conditions": ["image"]})
    )
    result = run_spec(read_spec(spec), store=str(folder / "store"))
    assert LOADED == ["heavy", "light"]
    assert [one.judge for one in result.summary.table.columns][:3] == ["heavy", "light", "refusal"]
    assert [one.revision for one in result.summary.judges] == [
        f"sha256:{'1':0>64}",
        f"sha256:{'2':0>64}",
        None,
    ]
    raw = "SELECT judge, raw FROM judgements WHERE judge != 'refusal' GROUP BY ALL ORDER BY ALL"
    assert ask(folder, raw) == [("heavy", "1"), ("light", "2")]
    # What is not its to read, it was not shown; another revision is judged anew, and only by the judge it is of.
    commits.clear()
    (finished / "data" / "light" / "weights.txt").write_text("3")
    run_spec(read_spec(spec), store=str(folder / "store"))
    assert dict(commits) == {"judge": 4, "report": 1}


def test_a_judge_that_looks_is_shown_what_the_model_was_shown(folder: Path, finished: Path) -> None:
    content = yaml.safe_load((finished / "data" / "spec.yaml").read_text())
    conditions = ["query", "image", "blank", "gap"]
    content |= {"judges": ["looking"], "conditions": conditions, "interventions": []}
    spec = finished / "data" / "looking.yaml"
    spec.write_text(yaml.safe_dump(content))
    run_spec(read_spec(spec), store=str(folder / "store"))
    own = [("image", f"({40 + number}, 30)") for number in range(4)]
    shown = [("blank", "(32, 32)"), ("gap", "None"), *own, ("query", "None")]
    judged = "SELECT DISTINCT condition, raw FROM judgements WHERE judge = '{}' ORDER BY ALL"
    assert ask(folder, judged.format("looking")) == shown
    judge(folder, "looking:name=again")
    assert ask(folder, judged.format("again")) == shown


def test_verdicts_that_came_before_a_judges_end_are_not_asked_for_again(
    folder: Path, users_judges: Path, monkeypatch: pytest.MonkeyPatch, forker: Forker
) -> None:
    monkeypatch.setenv("CMRM_TEST_DIE_AFTER", "5")
    with pytest.raises(ConnectionError, match="the endpoint is gone"):
        judge(folder, "dying")
    first = list(JUDGED)
    assert len(first) == 5
    # The same in a process that is killed, its verdicts put down one by one.
    monkeypatch.setenv("CMRM_TEST_KILL", "1")
    arguments = [str(users_judges), "judge", "latest", "--judge", "dying", "--store", str(folder / "store")]
    killed = forker.start(KILLED_JUDGING, arguments, log=folder / "log")
    assert killed.wait(timeout=120) == -signal.SIGKILL, (folder / "log").read_text()
    monkeypatch.delenv("CMRM_TEST_DIE_AFTER")
    JUDGED.clear()
    judge(folder, "dying")
    (total,) = ask(
        folder,
        "SELECT count(*), count(DISTINCT (condition, intervention, sample_id, dataset)) "
        "FROM judgements WHERE judge = 'dying'",
    )
    assert total[0] == total[1]
    assert len(JUDGED) == total[0] - 5 - 5
    assert ask(folder, "SELECT DISTINCT raw FROM judgements WHERE judge = 'dying'") == [("half a pair ?",)]


def test_verdicts_that_are_there_need_no_key(
    finished: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = (run["run_id"] for run in Store.open(folder / "store").runs())
    monkeypatch.setenv("JUDGE_KEY", "sk-canary-5d1f")
    given = {"kind": "endpoint", "model": "m", "rubric": "strict-refusal", "key_variable": "JUDGE_KEY"}
    with Endpoint(find("refused")) as endpoint:
        file = folder / "asked.yaml"
        file.write_text(yaml.safe_dump({**given, "base_url": endpoint.url}))
        record = judge(folder, str(file), run=first)
    monkeypatch.delenv("JUDGE_KEY")
    assert judge(folder, str(file), run=first)["run_id"] == record["run_id"]
    content = yaml.safe_load((finished / "data" / "spec.yaml").read_text())
    content["judges"] = ["refusal", "match", yaml.safe_load(file.read_text())]
    spec = finished / "data" / "asked.yaml"
    spec.write_text(yaml.safe_dump(content))
    assert run_spec(read_spec(spec), store=str(folder / "store")).run_id == record["run_id"]
    # Where verdicts are to be had, the key is missed before anything begins.
    file.write_text(yaml.safe_dump({**given, "base_url": endpoint.url, "revision": "new", "name": "new"}))
    runs = len(Store.open(folder / "store").runs())
    said = fail(["judge", first, "--judge", str(file), "--store", str(folder / "store")], capsys)
    assert "judges.new.key_variable names JUDGE_KEY, which holds no key here" in said
    content["judges"][-1]["revision"] = "new"
    spec.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="holds no key here"):
        run_spec(read_spec(spec), store=str(folder / "store"))
    assert len(Store.open(folder / "store").runs()) == runs


def test_what_cannot_be_judged_is_an_error_of_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], commits: Counter[str]
) -> None:
    store = Store.open(folder / "store")
    record = store.find_run("latest")
    (folder / "list.yaml").write_text("[refusal, {kind: strict, batch_sise: 3}]")

    def told(run: str, given: str) -> str:
        return fail(["judge", run, "--judge", given, "--store", store.url], capsys)

    assert "--judge oracle: judges.0: judge 'oracle' is unknown; known judges: " in told("latest", "oracle")
    assert "judges.0.batch_size (it is 'x'): Input should be a valid integer" in told(
        "latest", "strict:batch_size=x"
    )
    assert "list.yaml: judges.1.batch_sise: judge 'strict' has no such option; it has name, lengths" in told(
        "latest", str(folder / "list.yaml")
    )
    assert "judges.0.model: this field is missing" in told("latest", "weighing")
    assert "'lengths' has no value; write kind:option=value" in told("latest", "strict:lengths")
    assert "'name' is given twice" in told("latest", "overlap:name=a,name=b")
    assert "none.yaml: does not exist" in told("latest", "none.yaml")
    assert "has another judge named 'match'; give this one a unique name" in told(
        "latest", "strict:name=match"
    )
    assert "judge 'short' did not give one verdict on each answer" in told("latest", "short")
    store.write_run("r-failed", {**record, "status": "failed"})
    assert (
        "run r-failed is not finished (its record says failed); wait for it, or give its spec again"
        in told("r-failed", "overlap")
    )
    store.write_run("r-old", {name: record[name] for name in ("status", "keys", "spec")})
    assert "run r-old: its record has no models, as in older releases; give its spec again" in told(
        "r-old", "overlap"
    )
    without_shift = [key for key in record["keys"] if store.look_up("report", key) is None]
    store.write_run("r-lost", {**record, "keys": without_shift})
    assert "run r-lost: its report is missing" in told("r-lost", "overlap")
    assert set(commits) <= {"judge"}


def test_a_record_of_before_judges_had_options_is_judged(folder: Path, commits: Counter[str]) -> None:
    store = Store.open(folder / "store")
    record = store.find_run("latest")
    path = f"runs/{record['run_id']}.json"
    store.write_bytes(path, seal({name: value for name, value in record.items() if name != "judges"}))
    assert [one["name"] for one in judge(folder, "strict")["judges"]] == ["refusal", "match", "strict"]
    assert dict(commits) == {"judge": 6, "report": 1}


def test_judging_again_imports_nothing_that_loads_models(folder: Path) -> None:
    script = (
        "import sys; from flows.cli import main\n"
        f"main(['judge', 'latest', '--judge', 'overlap', '--store', {str(folder / 'store')!r}])\n"
        "assert not {'cmrm.models.loading', 'cmrm.models.vlm', 'transformers'} & {*sys.modules}\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=120, check=True)


def test_the_kinds_of_judges_are_listed_with_their_options(
    users_judges: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (users_judges / "users_judges-1.0.dist-info" / "entry_points.txt").open("a").write(
        "gone = no_such_package:Judge\n"
    )
    main(["judges"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "strict Calls every answer to a harmful question unsafe of another length. Options: name," in shown
    assert "batch_size=4" in shown
    assert (
        "weighing Holds a model, which is one line of a file. Options: name, model (must be given)" in shown
    )
    assert "gone judge 'gone' of the entry point no_such_package:Judge cannot be loaded" in shown
    assert "second paragraph" not in shown


def test_the_help_fits_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    main(["judge", "--help"])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    for word in ("RUN", "--judge", "--store", "--workers", "latest", "YAML"):
        assert word in shown
