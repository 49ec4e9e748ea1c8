"""A run from its spec to its report, on a random LLaVA with a real Prefect server."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH
from safetensors import safe_open

from cmrm.errors import UserError
from flows.cli import main
from flows.run import Result, run_spec
from flows.spec.judge_fields import read_judge_field
from flows.spec.spec import InterventionSpec, Spec, read_spec
from flows.stages import Stages
from storage.sql.database import connect
from storage.store import Store
from tasks.core import models
from tasks.core.stage import Stage
from tasks.generate import stage as generate
from tasks.report import stage as report
from tasks.states import extract as embed
from tests.commits import count_commits

pytestmark = pytest.mark.usefixtures("prefect_server", "without_heartbeat")


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A run of the small spec with all that it asks for, and how many jobs of each stage it did."""

    store: Path
    result: Result
    commits: Counter[str]


@pytest.fixture(scope="module")
def whole(
    llava_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    prefect_server: str,
    write_spec: Callable[..., Path],
) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        commits = count_commits(patch)
        result = run(read_spec(write_spec(folder / "data", llava_folder)), folder / "store")
    return Whole(store=folder / "store", result=result, commits=commits)


@pytest.fixture(scope="module")
def finished(
    llava_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    prefect_server: str,
    write_spec: Callable[..., Path],
) -> Path:
    """A folder with a spec of fewer jobs, its data and a store that holds its finished run."""
    folder = tmp_path_factory.mktemp("finished")
    # Two shards of one data set, one of the other: every run shows each job to Prefect, and a few are as good as many.
    few: dict[str, Any] = {"conditions": ["query", "image", "noise"], "shard_size": 6}
    run(read_spec(write_spec(folder / "data", llava_folder, **few)), folder / "store")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _draw_no_figures(whole: Whole) -> Iterator[None]:
    """Do without the report's figures in all runs after the whole one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "find_groups", lambda *_: {})
        yield


@pytest.fixture
def few_jobs(tmp_path: Path, llava_folder: Path, write_short_spec: Callable[..., Path]) -> Path:
    """A spec with one shard of each data set and one judge, to be run from its start."""
    return write_short_spec(tmp_path / "data", llava_folder, judges=["refusal"])


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished folder, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def run(spec: Spec, store: Path) -> Result:
    return run_spec(spec, store=str(store), server=None)


def rows(store: Path, query: str) -> list[tuple[Any, ...]]:
    with connect(store) as connection:
        return connection.sql(query).fetchall()


def test_a_run_leaves_states_shift_answers_verdicts_and_a_report(whole: Whole) -> None:
    store, result = whole.store, whole.result
    report = Path(result.report).read_text()
    for name in (
        "Query",
        "Caption",
        "Image",
        "Blank image",
        "Noise image",
        "cmrm-dataset α=1",
        "cmrm-sample α=0.5",
    ):
        assert f"| {name} |" in report
    figures = Path(result.report).parent / "figures"
    assert (figures / "states-1.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (figures / "states-1.svg").read_text()
    drawn = (figures / "states-1.csv").read_text()
    assert drawn.count(",query,") == drawn.count(",blank,") > 0
    assert "Parse errors" in report
    assert "Quarantined rows: none" in report

    anchors, targets = (
        rows(store, f"SELECT count(*) FROM samples WHERE split = '{split}'")[0][0]
        for split in ("anchor", "target")
    )
    assert anchors + targets == 24
    assert anchors > 2
    # Each anchor under 4 conditions and each target under 2, at 4 blocks.
    assert rows(store, "SELECT count(*) FROM hidden_states")[0][0] == (anchors * 4 + targets * 2) * 4
    # 5 conditions and 2 interventions for each target; `own` has no captions.
    harmful = rows(store, "SELECT count(*) FROM samples WHERE split = 'target' AND harmful")[0][0]
    assert rows(store, "SELECT count(*) FROM responses")[0][0] == harmful * 7 + (targets - harmful) * 6
    joined = """
        SELECT count(*) FROM judgements j
        JOIN responses r USING (dataset, sample_id, condition, intervention, answer_digest)
        JOIN samples s USING (dataset, sample_id) WHERE j.judge = 'refusal' AND s.split = 'target'
    """
    assert rows(store, joined)[0][0] == harmful * 7 + (targets - harmful) * 6
    assert rows(store, "SELECT DISTINCT direction, count FROM shifts") == [("image_minus_text", anchors)]
    assert rows(store, "SELECT status FROM runs") == [("finished",)]
    assert set(whole.commits) == {"ingest", "embed", "shift", "generate", "judge", "report"}


def test_the_shift_and_the_report_say_what_the_vision_tower_saw(whole: Whole) -> None:
    (path,) = (whole.store / "shifts").rglob("*.safetensors")
    with safe_open(path, framework="pt") as file:
        shown = json.loads(file.metadata()["stimulus"])
    # White behind CLIP's normalisation, and a tower of 16 patches.
    white = [(1 - 0.48145466) / 0.26862954, (1 - 0.4578275) / 0.26130258, (1 - 0.40821073) / 0.27577711]
    assert shown["low"] == shown["high"] == pytest.approx(white, abs=1e-4)
    assert (shown["width"], shown["height"], shown["tokens"], shown["contrast"]) == (32, 32, 16, [0.0] * 3)
    assert (shown["uniform"], shown["size_from"]) == (True, "spec")
    report = Path(whole.result.report).read_text()
    section = report[report.index("## Meaningless images") :]
    assert "| blank | 32 × 32 | 1.93, 2.07, 2.15 | 0.0 | 16 |" in section
    assert re.search(r"\| noise \| 32 × 32 \| .* \| 7\d\.\d \| 16 \| 16 \|", section)


def test_anchors_are_never_answered(whole: Whole) -> None:
    answered = (
        "SELECT count(*) FROM responses r JOIN samples s USING (dataset, sample_id) WHERE s.split = 'anchor'"
    )
    assert rows(whole.store, answered) == [(0,)]


def test_the_second_run_does_no_work_and_loads_no_model(
    copied: Path, commits: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(use: models.ModelUse) -> None:
        raise AssertionError(f"loaded {use.name}")

    monkeypatch.setattr(embed, "load_model_once", refuse)
    monkeypatch.setattr(generate, "load_model_once", refuse)
    (first,) = rows(copied / "store", "SELECT summary FROM runs")
    second = run(read_spec(copied / "data" / "spec.yaml"), copied / "store")
    assert not commits
    assert second.summary.to_json() == json.loads(first[0])


@pytest.mark.parametrize(
    ("update", "done"),
    [
        ({"batch_size": 5}, set()),
        ({"judges": [read_judge_field("refusal")]}, {"report"}),
        ({"interventions": [InterventionSpec(name="half", alpha=0.5)]}, {"generate", "judge", "report"}),
        ({"conditions": ["query", "image"]}, {"report"}),
    ],
    ids=["batch size", "judges", "strength", "fewer conditions"],
)
def test_a_change_recomputes_just_what_depends_on_it(
    copied: Path, commits: Counter[str], update: dict[str, Any], done: set[str]
) -> None:
    spec = read_spec(copied / "data" / "spec.yaml")
    run(spec.model_copy(update=update), copied / "store")
    assert set(commits) == done


def test_an_image_with_other_bytes_is_answered_again_and_no_text_is(
    copied: Path, commits: Counter[str]
) -> None:
    text = "SELECT DISTINCT key FROM responses WHERE condition = 'query' ORDER BY key"
    before = rows(copied / "store", text)
    Image.new("RGB", (50, 30), (1, 2, 3)).save(copied / "data" / "images" / "3.png")
    run(read_spec(copied / "data" / "spec.yaml"), copied / "store")
    assert commits["ingest"] == 2
    assert commits["generate"] > 0
    assert rows(copied / "store", text) == before


def test_a_flipped_bit_is_noticed_and_only_that_file_is_made_again(
    copied: Path, commits: Counter[str]
) -> None:
    answers = min((copied / "store" / "responses").rglob("*.parquet"))
    whole = answers.read_bytes()
    answers.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    run(read_spec(copied / "data" / "spec.yaml"), copied / "store")
    assert commits == {"generate": 1}
    assert answers.read_bytes() == whole


def test_prefects_own_record_is_not_believed_when_the_manifest_is_gone(
    copied: Path, commits: Counter[str]
) -> None:
    for manifest in (copied / "store" / "manifests" / "shift").iterdir():
        manifest.unlink()
    run(read_spec(copied / "data" / "spec.yaml"), copied / "store")
    assert commits == {"shift": 1}


@pytest.mark.parametrize("left", [b"", b'{"metadata": {"stor', b"{}"])
def test_prefects_own_record_cut_short_is_written_again_and_no_work_is_repeated(
    copied: Path, commits: Counter[str], left: bytes
) -> None:
    (manifest,) = Store.open(copied / "store").manifests("shift")
    record = Path(PREFECT_LOCAL_STORAGE_PATH.value()) / manifest.key
    assert record.is_file()
    record.write_bytes(left)
    run(read_spec(copied / "data" / "spec.yaml"), copied / "store")
    assert not commits
    assert manifest.key.encode() in record.read_bytes()


def test_sql_can_be_narrowed_to_one_run(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, spec = copied / "store", read_spec(copied / "data" / "spec.yaml")
    (first,) = (name for (name,) in rows(store, "SELECT run_id FROM runs"))
    run(spec.model_copy(update={"conditions": ["query"], "interventions": []}), store)
    for name, conditions in (("latest", 1), (first, 3)):
        with connect(store, run=name) as connection:
            found = connection.sql("SELECT count(DISTINCT condition) FROM judgements").fetchall()
        assert found == [(conditions,)]
    main(["sql", "SELECT DISTINCT condition FROM responses", "--store", str(store), "--run", "latest"])
    assert "query" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["sql", "SELECT 1", "--store", str(store), "--run", "none"])
    assert first in capsys.readouterr().err


def test_bad_rows_are_quarantined_with_a_reason_and_the_run_continues(few_jobs: Path, tmp_path: Path) -> None:
    data = few_jobs.parent / "examine.jsonl"
    bad = [
        '{"image_id": "0.png", "caption": "c", "query": "   "}',
        '{"image_id": "none.png", "caption": "c", "query": "where is it?"}',
        '{"image_id": "../spec.yaml", "caption": "c", "query": "what is in there?"}',
        '{"image_id": "0.png", "caption": "c", "query": "say </s> now"}',
        data.read_text().splitlines()[0],
        '{"image_id": "0.png", "caption": "cut',
    ]
    data.write_text(data.read_text() + "\n".join(bad))
    result = run(read_spec(few_jobs), tmp_path / "store")
    found = rows(
        tmp_path / "store", "SELECT DISTINCT stage, line, reason FROM quarantine ORDER BY stage, line"
    )
    expected = [
        ("ingest", 15, "empty question"),
        ("ingest", 16, "none.png"),
        ("ingest", 17, "outside"),
        ("ingest", 19, "duplicate id"),
        ("ingest", 20, "not valid JSON"),
    ]
    at_ingest = [row for row in found if row[0] == "ingest"]
    assert [(stage, line) for stage, line, _ in at_ingest] == [(stage, line) for stage, line, _ in expected]
    assert all(part in reason for (_, _, reason), (_, _, part) in zip(at_ingest, expected, strict=True))
    # The control token is found by the model's own tokenizer, once a condition, and is one quarantined row.
    assert {stage for stage, _, reason in found if "'</s>'" in reason} <= {"embed", "generate"}
    assert any("'</s>'" in reason for _, _, reason in found)
    assert sum(one.rows for one in result.summary.quarantined) == 6
    assert "Quarantined rows: 6 (" in Path(result.report).read_text()


def test_states_of_targets_under_a_meaningless_image_are_no_part_of_the_shift(
    copied: Path, commits: Counter[str]
) -> None:
    spec = read_spec(copied / "data" / "spec.yaml")
    run(spec.model_copy(update={"target_states": ["blank"]}), copied / "store")
    assert set(commits) == {"embed", "report"}


def test_an_image_that_vanishes_after_ingest_stops_the_run_and_nothing_of_it_is_committed(
    few_jobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share that drops is no property of the rows: once it is back, the same command asks them all."""
    spec, image = read_spec(few_jobs), few_jobs.parent / "images" / "1.png"
    do = Stages.run

    def lose_an_image(self: Stages, stage: Stage[Any], jobs: list[Any], **more: Any) -> Any:
        if stage.name == "embed":
            image.rename(image.with_suffix(".away"))
        return do(self, stage, jobs, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Stages, "run", lose_an_image)
        with pytest.raises(UserError, match=r"1\.png"):
            run(spec, tmp_path / "store")
    image.with_suffix(".away").rename(image)
    result = run(spec, tmp_path / "store")
    assert result.summary.quarantined == ()


@pytest.mark.parametrize(
    ("share", "part"), [(1.0, "every sample is an anchor"), (0.0001, "no anchor was drawn")]
)
def test_shares_that_leave_nothing_to_measure_or_to_answer_are_refused_before_any_model_work(
    spec: Spec, tmp_path: Path, commits: Counter[str], share: float, part: str
) -> None:
    anchors = spec.anchors.model_copy(update={"from_": dict.fromkeys(spec.datasets, share)})
    with pytest.raises(UserError, match=part):
        run(spec.model_copy(update={"anchors": anchors}), tmp_path / "store")
    assert set(commits) == {"ingest"}


def test_another_order_of_the_data_sets_is_the_same_shift_and_the_same_answers(
    copied: Path, commits: Counter[str]
) -> None:
    spec = read_spec(copied / "data" / "spec.yaml")
    shares = dict(reversed(spec.anchors.from_.items()))
    run(
        spec.model_copy(update={"anchors": spec.anchors.model_copy(update={"from_": shares})}),
        copied / "store",
    )
    assert not set(commits) & {"embed", "shift", "generate", "judge"}


def test_rows_with_one_id_in_several_files_are_each_counted_as_quarantined(
    small_spec: Path, tmp_path: Path
) -> None:
    """A data set of several files numbers its entries anew in each."""
    folder = small_spec.parent / "scenarios"
    folder.mkdir()
    good = {"Question": "q", "Key Phrase": "k", "Phrase Type": "t", "Rephrased Question": "r"}
    for number in range(3):
        entries = {"0": {"Question": 7}, "1": good | {"Rephrased Question(SD)": f"what is number {number}?"}}
        (folder / f"0{number}-Some.json").write_text(json.dumps(entries))
        image = small_spec.parent / "images" / f"0{number}-Some" / "SD" / "1.jpg"
        image.parent.mkdir(parents=True)
        Image.new("RGB", (40, 30), (0, 90, 120)).save(image)
    changed = yaml.safe_load(small_spec.read_text())
    changed["datasets"]["mm"] = {"format": "mm-safetybench", "path": "scenarios", "images": "images"}
    changed["conditions"], changed["interventions"], changed["target_states"] = ["query"], [], []
    small_spec.write_text(yaml.safe_dump(changed))
    result = run(read_spec(small_spec), tmp_path / "store")
    assert sum(one.rows for one in result.summary.quarantined) == 3


def test_a_sample_level_shift_that_is_not_finite_is_quarantined_and_the_others_are_answered(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflow(*_: Any, with_image: list[Any], blocks: tuple[int, ...], **__: Any) -> torch.Tensor:
        delta = torch.ones(len(with_image), len(blocks), 32)
        delta[0] = float("inf")
        return delta

    monkeypatch.setattr("cmrm.steering.shift.measure_sample_shift", overflow)
    spec = read_spec(copied / "data" / "spec.yaml")
    spec = spec.model_copy(
        update={"interventions": [InterventionSpec(name="own Δ", level="sample", alpha=0.3)]}
    )
    result = run(spec, copied / "store")
    aside = sum(one.rows for one in result.summary.quarantined)
    answered = rows(copied / "store", "SELECT count(*) FROM responses WHERE intervention = 'own Δ'")[0][0]
    targets = rows(copied / "store", "SELECT count(*) FROM samples WHERE split = 'target'")[0][0]
    assert aside > 0
    assert answered + aside == targets
    assert all("not finite" in one.reason for one in result.summary.quarantined)
