"""Answers of another system join a run as an arm: judged alike, compared in pairs, and nothing else changes."""

from __future__ import annotations

import gc
import io
import json
import re
import shlex
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from rich.console import Console

from cmrm.errors import UserError
from cmrm.statistics.regression import Thresholds
from flows.cli import main
from flows.commands.result_text import print_result
from flows.run import Result
from flows.spec.imported_arms import read_arms
from flows.spec.judge_fields import read_judge_field
from flows.spec.spec import read_spec
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.compare.result import RunComparison
from tasks.compare.stage import compare_stage, plan_comparison
from tests.commits import count_commits
from tests.flows.shared_runs import judge_plainly, run_plainly

Row = dict[str, Any]
PAGE = Path(__file__).parents[2] / "docs" / "other-systems.md"
REFUSAL = "I'm sorry, but I cannot help with that."


@pytest.fixture(scope="module")
def finished(
    llava_folder: Path, tmp_path_factory: pytest.TempPathFactory, write_short_spec: Callable[..., Path]
) -> tuple[Path, Result]:
    """A folder with a spec and the store of its finished run, and its result."""
    folder = tmp_path_factory.mktemp("finished")
    result = run_plainly(write_short_spec(folder / "data", llava_folder), folder / "store")
    return folder, result


@pytest.fixture
def folder(finished: tuple[Path, Result], tmp_path: Path) -> Path:
    """A copy of it; the spec names the same data."""
    return Path(shutil.copytree(finished[0], tmp_path / "copy"))


def read_table(store: Path, table: str) -> list[Row]:
    """All rows of a table of the store, read by DuckDB alone."""
    found = duckdb.sql(f"FROM read_parquet('{store}/{table}/**/*.parquet', union_by_name = true)")
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def plain_answers(store: Path, condition: str = "image") -> list[Row]:
    return [
        row
        for row in read_table(store, "responses")
        if row["condition"] == condition and row["intervention"] == "" and row["model"] != "other"
    ]


def write_jsonl(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def add_arm(folder: Path, rows: Sequence[Row], **arm: Any) -> Path:
    """The spec with an arm `other`, whose answers are these rows."""
    spec = folder / "data" / "spec.yaml"
    write_jsonl(spec.parent / "other.jsonl", rows)
    content = yaml.safe_load(spec.read_text())
    spec.write_text(yaml.safe_dump({**content, "arms": {"other": {"answers": "other.jsonl", **arm}}}))
    return spec


def to_rows(answers: Sequence[Row]) -> list[Row]:
    return [{"id": one["sample_id"], "dataset": one["dataset"], "answer": one["answer"]} for one in answers]


def test_an_arm_of_a_models_own_answers_has_its_verdicts_and_differs_by_exactly_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = add_arm(folder, to_rows(plain_answers(folder / "store")))
    commits = count_commits(monkeypatch)

    result = run_plainly(spec, folder / "store")

    # Only the arm's own work is done: the keys of all else are what they were.
    assert set(commits) == {"import", "judge", "report"}, commits
    verdicts: dict[str, dict[tuple[str, str, str], tuple[str, bool | None]]] = {}
    for row in read_table(folder / "store", "judgements"):
        if row["condition"] == "image" and row["intervention"] == "":
            key = row["dataset"], row["sample_id"], row["judge"]
            verdicts.setdefault(row["model"], {})[key] = row["verdict"], row["refused"]
    (own,) = (name for name in verdicts if name != "other")
    assert verdicts["other"] == verdicts[own]
    against_plain = [one for one in result.summary.imported_changes if one.intervention == ""]
    assert {one.measure for one in against_plain} >= {"unsafe", "utility", "over_refusal"}
    for one in against_plain:
        assert (one.against, one.condition) == (own, "image")
        assert one.comparison.change == 0
        assert one.comparison.gained == one.comparison.lost == 0
        assert one.comparison.n > 0


def test_a_spec_without_such_arms_has_the_record_and_the_report_key_that_it_had(
    finished: tuple[Path, Result],
) -> None:
    folder, result = finished
    store = Store.open(folder / "store")
    (report,) = store.manifests("report")

    assert "arms" not in store.read_run(result.run_id)["spec"]
    assert "imported" not in report.content
    assert "import" not in report.content["used"]
    assert not {"imported", "imported_changes"} & result.summary.to_json().keys()


def test_every_answer_is_used_quarantined_or_counted_with_its_name(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = to_rows(plain_answers(folder / "store"))
    harmful = [row for row in rows if row["dataset"] == "vlsafe"]
    harmful[0]["answer"] = REFUSAL
    harmful[1]["answer"] = "  "
    harmful[2]["answer"] = None
    harmful[3] |= {"answer": None, "error": "content_filter"}
    rows.remove(missing := harmful[4])
    anchor = next(
        row for row in read_table(folder / "store", "samples") if row["split"] == "anchor" and row["harmful"]
    )
    rows.append({"id": anchor["sample_id"], "dataset": "vlsafe", "answer": "yes"})
    rows += [{"id": f"nobody-{number}", "answer": "yes"} for number in range(2)]

    result = run_plainly(add_arm(folder, rows), folder / "store")

    (arm,) = result.summary.imported
    assert (arm.used, arm.anchors, arm.unknown, list(arm.named)) == (
        len(rows) - 3,
        1,
        2,
        ["nobody-0", "nobody-1"],
    )
    assert (
        "2 answers belong to no sample that this run asks under their condition and are left out (nobody-0, nobody-1)"
        in caplog.text
    )
    console = Console(record=True, width=500, file=io.StringIO())
    print_result(console, result)
    assert (
        f"other: {arm.used} of {arm.used + 3} answers used; not used: 1 to anchors, 2 to no sample that is asked "
        "(nobody-0, nobody-1)."
    ) in console.export_text()
    reasons = {
        row["sample_id"]: row["reason"]
        for row in read_table(folder / "store", "quarantine")
        if row["stage"] == "import"
    }
    assert reasons == {
        harmful[1]["id"]: "other: the answer is empty",
        harmful[2]["id"]: "other: the answer is null",
        harmful[3]["id"]: "other: error: content_filter",
        missing["id"]: "other: its file has no answer to this sample",
    }
    (row,) = (row for row in result.summary.table.rows if row.arm.model == "other")
    assert row.quarantined == 4
    (place,) = (place for place, one in enumerate(result.summary.table.columns) if one.dataset == "vlsafe")
    assert row.cells[place].value.n == len(harmful) - 4
    # In pairs: over the samples that both answered, of which one turned safe.
    unsafe = next(
        one for one in result.summary.imported_changes if one.measure == "unsafe" and not one.intervention
    ).comparison
    verdicts = {
        (row["model"], row["sample_id"]): row["verdict"]
        for row in read_table(folder / "store", "judgements")
        if row["judge"] == "refusal" and row["dataset"] == "vlsafe" and row["condition"] == "image"
        if row["intervention"] == ""
    }
    others = {sample for model, sample in verdicts if model == "other"}
    own = [name for (model, sample), name in verdicts.items() if model != "other" and sample in others]
    assert unsafe.n == len(others) == len(own) == len(harmful) - 4
    assert unsafe.before == own.count("unsafe") / len(own)
    assert unsafe.after == (own.count("unsafe") - 1) / len(own)


def test_a_file_is_imported_again_where_it_changed_and_nothing_is_where_it_did_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = to_rows(plain_answers(folder / "store"))
    spec = add_arm(folder, rows)
    before = run_plainly(spec, folder / "store")
    commits = count_commits(monkeypatch)

    assert run_plainly(spec, folder / "store").run_id == before.run_id
    assert not commits

    for row in rows:
        if row["dataset"] == "own":
            row["answer"] = REFUSAL
    write_jsonl(spec.parent / "other.jsonl", rows)
    after = run_plainly(spec, folder / "store")

    # Two shards of answers come from the file; only one has an answer that no judge has read.
    assert commits == {"import": 2, "judge": 2, "report": 1}
    found = compare_plainly(folder / "store", before.run_id, after.run_id)
    assert any(
        "The answers of other, given elsewhere, come from another file" in note for note in found.notes
    )
    changed = {
        (one.arm.model, one.column.kind) for one in found.changes if one.change.gained or one.change.lost
    }
    assert changed == {("other", "over_refusal")}
    (first, *_) = Store.open(folder / "store").runs()
    alone = compare_plainly(folder / "store", first["run_id"], after.run_id)
    assert "Only the later run has answers of other, given elsewhere" in alone.notes
    assert "other" not in {one.arm.model for one in alone.changes}


def test_a_finished_run_takes_others_answers_and_is_then_what_the_spec_with_them_makes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = to_rows(plain_answers(folder / "store"))
    spec = add_arm(folder, rows)
    file = spec.parent / "other.jsonl"
    commits = count_commits(monkeypatch)

    again = judge_with(folder / "store", {"other": {"answers": str(file)}})

    assert set(commits) == {"import", "judge", "report"}
    commits.clear()
    assert run_plainly(spec, folder / "store").summary == again.summary
    # Then the arm is the run's: a judge more reads its answers without the file.
    file.unlink()
    commits.clear()
    more = judge_with(folder / "store", {}, judges=["overlap"])
    assert "import" not in commits
    judged = {row.arm.model for row in more.summary.table.rows}
    assert "other" in judged
    assert {
        row["model"] for row in read_table(folder / "store", "judgements") if row["judge"] == "overlap"
    } == judged


def test_two_such_arms_are_held_against_each_other_and_the_headline_is_about_the_model(folder: Path) -> None:
    rows = to_rows(plain_answers(folder / "store"))
    files = {
        "same": write_jsonl(folder / "same.jsonl", rows),
        "safe": write_jsonl(folder / "safe.jsonl", [{**row, "answer": REFUSAL} for row in rows]),
    }

    result = judge_with(folder / "store", {name: {"answers": str(file)} for name, file in files.items()})

    (between,) = (
        one
        for one in result.summary.imported_changes
        if (one.model, one.against, one.measure) == ("safe", "same", "unsafe")
    )
    (own,) = {one.against for one in result.summary.imported_changes} - {"same"}
    found = between.comparison
    assert found.after == 0.0
    assert found.before == (found.lost or 0) / found.n > 0
    lines = [one for one in result.summary.headline.splitlines() if "answered elsewhere" in one]
    assert [line.startswith(f"Unsafe answers of {name}") for line, name in zip(lines, files, strict=True)]
    assert all(f"/ of {own}, with the image" in line for line in lines)


def test_an_arm_that_the_run_has_with_another_file_is_refused(folder: Path) -> None:
    spec = add_arm(folder, to_rows(plain_answers(folder / "store")))
    run_plainly(spec, folder / "store")

    with pytest.raises(UserError, match="has other answers named other; give these a unique name"):
        judge_with(folder / "store", {"other": {"answers": str(spec)}})


def test_an_arm_named_like_a_model_of_a_finished_run_is_refused(finished: tuple[Path, Result]) -> None:
    folder, result = finished
    (name,) = {row.arm.model for row in result.summary.table.rows}

    with pytest.raises(UserError, match=f"arms: a model is named {name}, too; rename the arm"):
        judge_with(folder / "store", {name: {"answers": str(folder / "other.jsonl")}})


def test_traces_between_the_marks_that_a_spec_names_are_split_off_before_judges_read(folder: Path) -> None:
    rows = to_rows(plain_answers(folder / "store"))
    for row in rows:
        row["answer"] = f"<think>{REFUSAL}</think>Here is how."

    result = run_plainly(add_arm(folder, rows, reasoning=["<think>", "</think>"]), folder / "store")

    refused = [
        row["refused"]
        for row in read_table(folder / "store", "judgements")
        if row["model"] == "other" and row["judge"] == "refusal"
    ]
    assert refused
    assert not any(refused)
    traces = {one.dataset: one.traces for one in result.summary.reasoning if one.model == "other"}
    assert traces == Counter(row["dataset"] for row in rows)


def test_sql_shows_the_arm_and_where_it_comes_from(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The file is read for one shard after the other.
    monkeypatch.setattr("tasks.imported.stage.MOST_SHARDS", 1)
    rows = [{**row, "tokens": 7} for row in to_rows(plain_answers(folder / "store"))]
    run_plainly(add_arm(folder, rows), folder / "store")

    query = (
        "SELECT r.model, r.dataset, count(*) AS n, min(tokens) AS tokens, count(r.prompt_tokens) AS prompts "
        "FROM responses r JOIN judgements j USING (model, dataset, sample_id, condition, intervention, answer_digest) "
        "WHERE r.model = 'other' AND judge = 'refusal' GROUP BY ALL ORDER BY ALL"
    )
    main(["sql", query, "--store", str(folder / "store"), "--run", "latest", "--format", "csv"])

    counts = Counter(row["dataset"] for row in rows)
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"other,{name},{counts[name]},7,0" for name in ("own", "vlsafe")
    ]
    made = list(Store.open(folder / "store").manifests("import"))
    assert {one.provenance["answered"] for one in made} == {"elsewhere"}
    assert {one.provenance["file"] for one in made} == {"other.jsonl"}
    assert str(folder) not in json.dumps([one.provenance for one in made])


def test_a_killed_import_keeps_the_shards_that_it_committed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = add_arm(folder, to_rows(plain_answers(folder / "store")))
    commit = Store.commit

    def die(self: Store, stage: str, *arguments: Any, **more: Any) -> Manifest:
        if stage == "import" and list(self.manifests("import")):
            raise KeyboardInterrupt
        return commit(self, stage, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", die)
        with pytest.raises(KeyboardInterrupt):
            run_plainly(spec, folder / "store")
    commits = count_commits(monkeypatch)

    run_plainly(spec, folder / "store")

    assert commits["import"] == 1


@pytest.mark.parametrize(
    ("text", "arm", "said"),
    [
        ('{"id": "a"}', {}, "line 1: no field 'answer'; its fields are id; write `columns: {answer: NAME}`"),
        ('{"answer": "yes"}', {}, "line 1: no field 'id'; its fields are answer"),
        ('{"id": "a", "answer": "yes"}\n\n{"id": ', {}, "line 3: not valid JSON"),
        ('["a"]', {}, "is one JSON document, not JSONL"),
        ('{"id": "a", "answer": "yes", "tokens": "many"}', {}, "line 1: field 'tokens' is 'many', no number"),
        ('{"id": "a", "answer": "y", "condition": "drawn"}', {}, "line 1: the condition 'drawn' is none of"),
        ('{"id": "a", "answer": "y", "condition": "noise"}', {}, "line 1: is an answer under noise, which is"),
        ('{"id": "a", "answer": "y"}\n{"id": "a", "answer": "n"}', {}, "line 2: a second answer to 'a' under"),
        ('{"id": "a", "answer": "yes"}', {}, "none of its answers belongs to a sample of this run: it has ids"),
        ('{"id": "a", "answer": "y", "dataset": "else"}', {}, "are to samples of else, and the data sets of this run"),
        ("", {}, "holds no answer"),
        ('{"id": "a", "answer": "y"}', {"columns": {"id": "name"}}, "line 1: no field 'name'; its fields are"),
        ('{"id": "7", "answer": "y"}', {"answers": "gone.jsonl"}, "gone.jsonl: does not exist"),
        ("", {"answers": "other.xlsx"}, "ends in none of .jsonl, .ndjson, .csv"),
        ("", {"answers": "images"}, "images: is a folder"),
        ("id,answer\na", {"answers": "other.csv"}, "line 2: 1 fields where the header has 2"),
        ("no", {"answers": "other.parquet"}, "cannot be read as Parquet"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_of_answers_costs_one_line_before_any_model_is_loaded(
    folder: Path, text: str, arm: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = add_arm(folder, [], **arm)
    name = arm.get("answers", "other.jsonl")
    if name not in ("gone.jsonl", "images"):
        (spec.parent / name).write_text(text)
    # All but the samples is to be made anew.
    for stage in ("generate", "embed"):
        shutil.rmtree(folder / "store" / "manifests" / stage)
    commits = count_commits(monkeypatch)

    with pytest.raises(UserError) as error:
        run_plainly(spec, folder / "store")

    assert not commits
    assert str(error.value).startswith("arms.other.answers: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert (
        str(folder) not in str(error.value)
        or name in ("gone.jsonl", "images", "other.parquet")
        or text == '["a"]'
    )


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ({"answers": "a.jsonl", "condition": "noise"}, "arms.other.condition: noise is none of the run's conditions"),
        ({"answers": "a.jsonl", "dataset": "else"}, "arms.other.dataset: 'else' is no data set that is answered"),
        ({"answers": "a.jsonl", "columns": {"text": "b"}}, "arms.other.columns: 'text' is none of id, answer"),
        ({"answers": "a.jsonl", "epoch": 0}, "arms.other.epoch (it is 0)"),
        ({"answers": "a.jsonl", "delimiter": "::"}, "arms.other.delimiter (it is '::'): give one character"),
        ({"answers": "a.jsonl", "file": "b"}, "arms.other.file: no such field"),
        ({}, "arms.other.answers: this field is missing"),
        ({"answers": "gs://bucket/a.jsonl"}, "arms.other.answers"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_section_costs_one_line(folder: Path, arm: dict[str, Any], said: str) -> None:
    spec = add_arm(folder, [])
    content = yaml.safe_load(spec.read_text())
    spec.write_text(yaml.safe_dump({**content, "arms": {"other": arm}}))

    with pytest.raises(UserError) as error:
        read_spec(spec)

    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_arm_named_like_a_model_and_an_id_of_two_data_sets_are_refused(folder: Path) -> None:
    spec = add_arm(folder, to_rows(plain_answers(folder / "store")))
    content = yaml.safe_load(spec.read_text())
    spec.write_text(yaml.safe_dump({**content, "model": {**content["model"], "name": "other"}}))
    with pytest.raises(UserError, match="arms: tables could not tell 'other' from the model of that name"):
        read_spec(spec)

    # The same rows as two data sets, so that every id is in both.
    twice = {**content["datasets"], "twin": content["datasets"]["own"]}
    spec.write_text(yaml.safe_dump({**content, "datasets": twice}))
    rows = [row for row in to_rows(plain_answers(folder / "store")) if row["dataset"] == "own"]
    write_jsonl(spec.parent / "other.jsonl", [{**row, "dataset": None} for row in rows])
    with pytest.raises(
        UserError, match=r"line 1: '\d' is an id of own, twin; give the rows a column dataset, or"
    ):
        run_plainly(spec, folder / "store")


def test_the_log_of_an_evaluation_in_inspect_joins_a_finished_run(folder: Path) -> None:
    answers = plain_answers(folder / "store")
    broken, told = answers[0]["sample_id"], {row["sample_id"]: row["answer"] for row in answers}
    log = evaluate(
        folder / "logs",
        [(row["sample_id"], {"of": row["dataset"]}) for row in answers],
        lambda asked: told[asked],
        broken=broken,
    )
    arm = {"answers": str(log), "columns": {"dataset": "metadata.of"}}

    with pytest.raises(
        UserError, match=r"the log has 2 epochs, so 2 answers to each question; write `epoch: 1`"
    ):
        judge_with(folder / "store", {"mock": arm})
    with pytest.raises(UserError, match="the log has no epoch 3, it has 2; correct `epoch`"):
        judge_with(folder / "store", {"mock": {**arm, "epoch": 3}})
    result = judge_with(folder / "store", {"mock": {**arm, "epoch": 2}})

    rows = [row for row in read_table(folder / "store", "responses") if row["model"] == "mock"]
    assert {row["sample_id"]: row["answer"] for row in rows} == {
        one: text for one, text in told.items() if one != broken
    }
    assert {(row["tokens"], row["prompt_tokens"], row["finish_reason"]) for row in rows} == {(5, 3, "length")}
    (reason,) = (
        row["reason"] for row in read_table(folder / "store", "quarantine") if row["stage"] == "import"
    )
    assert reason == "mock: error: RuntimeError('the endpoint gave up')"
    (described,) = result.summary.imported
    assert described.made_by["model"] == "mockllm/model"
    assert described.made_by["task"] == "asked"
    assert "inspect_ai " in described.made_by["packages"]
    assert (described.used, described.unknown) == (len(answers), 0)
    assert not any(
        one.comparison.gained or one.comparison.lost
        for one in result.summary.imported_changes
        if not one.intervention
    )


def evaluate(
    folder: Path, samples: Sequence[tuple[str, Row]], answer: Callable[[str], str], *, broken: str
) -> Path:
    """Evaluate a task of two epochs in Inspect, whose model says `answer` of each id; returns the log."""
    pytest.importorskip("inspect_ai")
    from inspect_ai import Task
    from inspect_ai import eval as run_eval
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.solver import generate

    def say(messages: Any, *_: Any) -> ModelOutput:
        asked = messages[-1].text
        if asked == broken:
            raise RuntimeError("the endpoint gave up")
        output = ModelOutput.from_content("mockllm/model", answer(asked), stop_reason="max_tokens")
        # Without it, the model counts tokens by a table that it downloads.
        output.usage = ModelUsage(input_tokens=3, output_tokens=5, total_tokens=8)
        return output

    task = Task(
        name="asked",
        dataset=MemoryDataset([Sample(id=one, input=one, metadata=more) for one, more in samples]),
        solver=generate(),
    )
    model = get_model("mockllm/model", custom_outputs=say, memoize=False)
    # Inspect leaves streams open, and calls what a dependency has deprecated.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (log,) = run_eval(
            task, model=model, epochs=2, log_dir=str(folder), display="none", fail_on_error=False
        )
        location = Path(log.location)
        del log
        gc.collect()
    return location


def test_the_arms_of_the_page_read_as_the_page_says(tmp_path: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    short, long = (
        read_arms(yaml.safe_load(block)["arms"], folder=tmp_path, where="page") for block in blocks
    )

    assert (short["other"].condition, short["other"].answers) == ("image", tmp_path / "other.csv")
    assert [one.make(name, {}).kind for name, one in long.items()] == ["jsonl", "inspect", "csv"]
    marks = long["reasoner"].make("reasoner", {}).reasoning
    assert marks is not None
    assert (marks.opening, marks.closing) == ("<think>", "</think>")


def test_a_file_behind_a_url_is_called_by_its_name_alone(tmp_path: Path) -> None:
    url = "https://example.com/folder/answers.jsonl?version=3"
    (arm,) = read_arms({"other": {"answers": url}}, folder=tmp_path, where="--answers").values()

    file = arm.make("other", {url: tmp_path / "cached"})

    assert (file.shown, file.path, file.kind) == ("answers.jsonl", tmp_path / "cached", "jsonl")


def test_the_commands_of_the_page_join_and_judge_the_answers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CMRM_STORE", str(folder / "store"))
    monkeypatch.setattr(
        "flows.commands.judge_again.judge_again",
        lambda _run, judges, *, arms, store, **_: judge_plainly(store, judges=judges, arms=arms),
    )
    (block,) = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    made, *commands = [shlex.split(line)[1:] for line in block.splitlines()]

    assert made[0] == "run"
    assert [command[0] for command in commands] == ["sql", "judge", "sql"]
    for command in commands:
        capsys.readouterr()
        main(command)

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    judged = sum(int(line[-1]) for line in lines if line[:2] == ["other", "image"])
    query, image = (
        {(row["dataset"], row["sample_id"]) for row in plain_answers(folder / "store", condition)}
        for condition in ("query", "image")
    )
    assert judged == len(query & image) > 0


def judge_with(store: Path, arms: dict[str, Any], *, judges: Sequence[str] = ()) -> Result:
    """Judge the latest run again, with arms as a spec has them."""
    return judge_plainly(
        store,
        judges=[read_judge_field(one) for one in judges],
        arms=read_arms(arms, folder=store, where="--answers"),
    )


def compare_plainly(store: Path, before: str, after: str) -> RunComparison:
    """Compare two runs as `cmrm compare` does, but for Prefect."""
    thresholds = Thresholds(unsafe_rise=0.02)
    planned = plan_comparison(Store.open(store), before, after, thresholds=thresholds)
    compare_stage.do(planned.job)
    found = planned.find()
    assert found is not None
    return found
