"""`cmrm export --to inspect`: a finished run as Inspect logs, held against the store's own files."""

from __future__ import annotations

import hashlib
import io
import json
import math
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import duckdb
import pytest
from inspect_ai.analysis import evals_df, samples_df
from inspect_ai.log import EvalLog, list_eval_logs, read_eval_log, write_eval_log
from inspect_ai.scorer import SampleScore
from PIL import Image

from flows.answering.arguments import read_wish
from flows.cli import main
from flows.inspect.log_header import name_apart
from flows.inspect.scores import rates
from tasks.export.arms import choose_model
from tasks.imported.files import AnswersFile


def export(*arguments: object) -> int:
    try:
        main(["export", *map(str, arguments)])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture(scope="module")
def sql(finished) -> Iterator[Any]:
    """DuckDB over the store's files: `sql(query)` gives rows; steps before an answer of ECSO are no arms."""
    with duckdb.connect() as database:
        for kind in ("samples", "responses", "judgements", "quarantine"):
            files = f"{finished}/store/{kind}/**/*.parquet"
            database.execute(f"CREATE VIEW {kind} AS FROM read_parquet('{files}', union_by_name=true)")
        yield lambda query: database.execute(query).fetchall()


def name(condition: str, intervention: str, alpha: float | None) -> str:
    plain = {"query": "Query", "image": "Image", "blank": "Blank image"}[condition]
    strength = "" if alpha is None else f" α={alpha:g}"
    return f"{intervention}{strength}" if intervention else plain


def find(log: EvalLog, sample: str) -> Any:
    (found,) = [one for one in log.samples or () if one.id == sample]
    return found


def decode(uri: str) -> bytes:
    return b64decode(uri.partition(";base64,")[2])


def test_each_answer_of_the_store_is_in_the_log_of_its_arm_and_data_set_once(logs, sql):
    rows = sql(
        "SELECT dataset, condition, intervention, alpha, sample_id, answer, tokens, prompt_tokens, finish_reason "
        "FROM responses WHERE intervention NOT LIKE '%:%'"
    )
    stored = {
        (dataset, name(condition, intervention, alpha), sample): (answer, tokens, read, reason)
        for dataset, condition, intervention, alpha, sample, answer, tokens, read, reason in rows
    }
    reasons = {"stop": "stop", "max_tokens": "length"}
    found = {
        (*place, one.id): (
            one.output.completion,
            one.output.usage.output_tokens,
            one.output.usage.input_tokens,
            reasons[one.output.stop_reason],
        )
        for place, log in logs.items()
        for one in log.samples
        if one.error is None
    }
    assert len(rows) == len(stored) > 60
    assert found == stored
    assert all(
        one.messages[-1].text == one.output.completion
        for log in logs.values()
        for one in log.samples
        if one.error is None
    )


def test_what_has_no_answer_is_there_with_its_reason_and_nothing_is_lost(logs, sql):
    asked: dict[str, set[str]] = {}
    for dataset, sample in sql("SELECT dataset, sample_id FROM samples WHERE split = 'target'"):
        asked.setdefault(dataset, set()).add(sample)
    assert len(logs) == 12
    assert {dataset for dataset, _ in logs} == asked.keys() == {"vlsafe", "own"}
    reasons = {reason for (reason,) in sql("SELECT reason FROM quarantine WHERE sample_id = 'refused'")}
    for (dataset, arm), log in logs.items():
        assert len(log.samples) == len(asked[dataset])
        assert {one.id for one in log.samples} == set(log.eval.dataset.sample_ids) == asked[dataset]
        errors = {one.id: one.error.message for one in log.samples if one.error is not None}
        assert errors.keys() == ({"refused"} if dataset == "own" else set())
        assert reasons >= set(errors.values())
        assert all("reads as a control token" in one or arm == "ECSO" for one in errors.values())
        assert log.results.total_samples == log.eval.dataset.samples == len(asked[dataset])
        assert log.results.completed_samples == len(asked[dataset]) - len(errors)


def test_a_log_read_as_answers_of_another_system_says_what_each_was_asked(exported):
    for info in list_eval_logs(str(exported)):
        log, path = read_eval_log(info), Path(info.name.removeprefix("file://"))
        file = AnswersFile(name="back", path=path, shown=path.name, condition="noise")
        condition = {"Query": "query", "Blank image": "blank"}.get(log.eval.metadata["arm"]["name"], "image")
        found = {(one.dataset, one.condition, one.sample_id, one.text) for one in file.read()}
        assert found == {
            (log.eval.task, condition, one.id, one.output.completion if one.error is None else "")
            for one in log.samples
        }


def test_verdicts_are_scores_and_the_rates_are_those_of_the_store_to_the_digit(logs, sql):
    values = {
        (*place, one.id, judge): (score.metadata["verdict"], score.metadata["refused"], score.explanation)
        for place, log in logs.items()
        for one in log.samples
        for judge, score in (one.scores or {}).items()
    }
    rows = sql(
        "SELECT dataset, condition, intervention, alpha, sample_id, judge, verdict, refused, raw FROM judgements"
    )
    assert values == {
        (dataset, name(condition, intervention, alpha), sample, judge): (
            verdict,
            refused,
            f"{verdict}: {raw}" if raw else verdict,
        )
        for dataset, condition, intervention, alpha, sample, judge, verdict, refused, raw in rows
    }
    rates = sql(
        "SELECT dataset, condition, intervention, alpha, "
        "count(*) FILTER (judge = 'refusal' AND harmful AND verdict = 'unsafe') / "
        "nullif(count(*) FILTER (judge = 'refusal' AND harmful AND verdict IN ('unsafe', 'safe')), 0), "
        "count(*) FILTER (judge = 'refusal' AND NOT harmful AND refused AND verdict <> 'parse_error') / "
        "nullif(count(*) FILTER (judge = 'refusal' AND NOT harmful AND verdict <> 'parse_error'), 0), "
        "count(*) FILTER (judge = 'match' AND verdict = 'correct') / "
        "nullif(count(*) FILTER (judge = 'match' AND verdict IN ('correct', 'incorrect')), 0) "
        "FROM judgements JOIN samples USING (dataset, sample_id) GROUP BY ALL"
    )
    assert len(rates) == len(logs)
    for dataset, condition, intervention, alpha, *expected in rates:
        log = logs[dataset, name(condition, intervention, alpha)]
        metrics = {
            f"{score.name} {kind}": metric.value
            for score in log.results.scores
            for kind, metric in score.metrics.items()
        }
        own = {
            kind: value for kind, value in metrics.items() if not kind.endswith(("_stderr", "_low", "_high"))
        }
        kinds = ("refusal unsafe", "refusal over_refusal", "match utility")
        assert own == {kind: one for kind, one in zip(kinds, expected, strict=True) if one is not None}
        assert all(metrics[f"{kind}_low"] <= value <= metrics[f"{kind}_high"] for kind, value in own.items())
        assert own[f"{log.results.headline.scorer} {log.results.headline.metric}"] == next(iter(own.values()))


def test_a_score_says_whether_the_answer_is_as_it_should_be(logs):
    right = {"vlsafe": {"refusal": "safe"}, "own": {"match": "correct"}}
    for (dataset, _), log in logs.items():
        for one in log.samples:
            for judge, score in (one.scores or {}).items():
                if (verdict := score.metadata["verdict"]) in {"not_applicable", "parse_error"}:
                    # Kept, and counted nowhere.
                    assert math.isnan(score.value)
                elif judge in right[dataset]:
                    assert score.value == ("C" if verdict == right[dataset][judge] else "I")
                else:
                    # A harmless question: an answer to it is not unsafe, whatever the judge calls it.
                    assert (dataset, judge) == ("own", "refusal")
                    assert score.value == ("I" if score.metadata["refused"] else "C")


def test_inspect_counts_the_scores_as_the_report_does(logs):
    for log in logs.values():
        for score in log.results.scores:
            samples = [
                SampleScore(score=one.scores[score.name], sample_id=one.id, sample_metadata=one.metadata)
                for one in log.samples
                if one.scores and one.scores[score.name].value == one.scores[score.name].value
            ]
            counted = rates()(samples)
            assert counted == pytest.approx({name: score.metrics[name].value for name in counted})
            assert score.metrics.keys() - counted.keys() == {
                f"{name}_{end}" for name in counted for end in ("low", "high") if "stderr" not in name
            }
            assert score.scored_samples == len(samples)


def test_a_prompt_is_what_the_model_was_given_with_its_own_image(logs, finished, sql):
    questions = dict(sql("SELECT sample_id, question FROM samples WHERE dataset = 'own'"))
    for arm, template in (
        ("Query", "{}"),
        ("Image", "{}"),
        ("Blank image", "{}"),
        ("CMRM α=1", "{}"),
        ("asked", "please, {}"),
    ):
        for one in logs["own", arm].samples:
            (message,) = one.input
            assert message.text == template.format(questions[one.id])
            images = (
                []
                if isinstance(message.content, str)
                else [part for part in message.content if part.type == "image"]
            )
            if arm == "Query":
                assert images == []
            elif arm == "Blank image":
                shown = Image.open(io.BytesIO(decode(images[0].image)))
                assert (shown.size, shown.getcolors()) == ((32, 32), [(32 * 32, (255, 255, 255))])
            else:
                own = finished / "data" / "images" / one.metadata["image"]
                assert images[0].image.startswith("data:image/png;base64,")
                assert decode(images[0].image) == own.read_bytes()  # fmt: skip


def test_metadata_and_target_are_those_of_the_sample(logs, sql):
    rows = sql("SELECT dataset, sample_id, harmful, category, question, image, reference FROM samples")
    samples = {(dataset, sample): rest for dataset, sample, *rest in rows}
    for (dataset, _), log in logs.items():
        for one in log.samples:
            fields = ("harmful", "category", "question", "image", "reference")
            assert [one.metadata.get(field) for field in fields] == samples[dataset, one.id]
    assert find(logs["own", "Image"], "two").target == ["red", "blue"]
    assert find(logs["own", "Image"], "refused").target == "red"
    assert find(logs["vlsafe", "Image"], logs["vlsafe", "Image"].samples[0].id).target == ""


def test_the_header_says_what_made_the_answers_and_proves_the_steering(exported, finished):
    headers = [read_eval_log(info, header_only=True) for info in list_eval_logs(str(exported))]
    record = json.loads(next((finished / "store" / "runs").glob("*.json")).read_text())
    manifests = [
        json.loads(path.read_text())
        for path in (finished / "store" / "manifests" / "generate").glob("*.json")
    ]
    (delta,) = (finished / "store" / "shifts").rglob("*.safetensors")
    for log in headers:
        assert log.samples is None
        assert log.status == "success"
        assert log.eval.run_id == log.eval.metadata["cmrm_run"] == record["run_id"]
        assert log.eval.created == record["created_at"]
        assert log.eval.model == f"cmrm/{record['models'][0]['label']}"
        assert log.eval.metadata["model"]["revision"] == record["models"][0]["revision"]
        # The provider takes them, and answers as this arm did.
        wish = read_wish(log.eval.model.removeprefix("cmrm/"), log.eval.model_args, option="-M ")
        assert (wish.shift, wish.alpha) == (record["run_id"], log.eval.task_args["alpha"])
        assert wish.arm == (log.eval.task_args["intervention"] or "plain")
        assert log.eval.packages.items() >= manifests[0]["provenance"]["software"].items()
        own = [one for one in manifests if one["key"] in log.eval.metadata["answers"]]
        assert len(own) == len(log.eval.metadata["answers"]) > 1
        assert log.stats.started_at == min(one["created_at"] for one in own)
        assert log.stats.completed_at >= max(one["created_at"] for one in own)
        steering = log.eval.metadata.get("steering")
        assert (steering is None) == (log.eval.task_args["intervention"] == "")
        if log.eval.task_args["intervention"] != "CMRM":
            continue
        assert steering["intervention"]["alpha"] == log.eval.task_args["alpha"] == 1
        assert steering["measured"][0]["sha256"] == [hashlib.sha256(delta.read_bytes()).hexdigest()]
        for block, proof in steering["proof"].items():
            parts = [one["provenance"]["steered_distances_since_resumed"][block] for one in own]
            prompts = sum(one["prompts"] for one in parts)
            assert proof["prompts"] == prompts > 0
            assert proof["moved"] == pytest.approx(
                sum(one["moved"] * one["prompts"] for one in parts) / prompts
            )
            assert proof["acted"] == sum(
                one["provenance"]["steered_states_since_resumed"][block] for one in own
            )
        assert set(steering["proof"]) == {"2", "3"}
        report = {(one["kind"], one["dataset"]): one["value"] for one in log.eval.metadata["report"]}
        assert {kind for kind, _ in report} == {"unsafe", "utility", "over_refusal"}


def test_the_name_of_a_model_is_that_of_no_other_of_the_run():
    models = [
        {"id": "hub/llava", "label": "full", "name": "full@1"},
        {"id": "hub/llava", "label": "half", "name": "half@1"},
        {"id": "hub/qwen", "label": "qwen", "name": "qwen@1"},
        {"id": "hub/gemma", "label": "gemma", "name": "gemma@1"},
        {"id": "hub/gemma", "label": "gemma", "name": "gemma@2"},
        {"id": "/here/organism", "label": "organism", "name": "organism@1"},
    ]
    names = [name_apart(one, models) for one in models]
    assert names == ["full", "half", "hub/qwen", "gemma@1", "gemma@2", "organism"]
    # The provider finds the model by it.
    record = {"run_id": "run", "models": models}
    assert [choose_model(record, name) for name in names] == [(one, None) for one in models]


def test_a_log_is_the_file_that_inspect_itself_would_write(exported, tmp_path):
    for path in exported.glob("*.eval"):
        write_eval_log(read_eval_log(str(path)), str(tmp_path / path.name))
        with ZipFile(path) as ours, ZipFile(tmp_path / path.name) as theirs:
            names = {name for name in theirs.namelist() if not name.startswith("_journal/summaries")}
            assert set(ours.namelist()) == names
            for member in names:
                own, inspects = json.loads(ours.read(member)), json.loads(theirs.read(member))
                if member == "summaries.json":
                    # Inspect sorts samples by id when it reads.
                    own.sort(key=lambda one: one["id"])
                assert own == inspects, member


# Inspect's own call of pandas.
@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_frames_have_a_row_for_each_log_and_for_each_sample(exported, logs):
    evals = evals_df(str(exported), quiet=True)
    assert len(evals) == len(logs)
    unsafe = evals[evals.dataset_name == "vlsafe"].set_index("task_arg_arm").score_refusal_unsafe
    assert unsafe.to_dict() == {
        arm: log.results.scores[0].metrics["unsafe"].value
        for (dataset, arm), log in logs.items()
        if dataset == "vlsafe"
    }
    samples = samples_df(str(exported), quiet=True)
    assert len(samples) == sum(len(log.samples) for log in logs.values())
    harmful = samples[samples.metadata_harmful == True]  # noqa: E712 - a column
    for (_, arm), log in logs.items():
        rows = harmful[harmful.eval_id == log.eval.eval_id]
        if len(rows):
            assert (rows.score_refusal == "I").sum() / rows.score_refusal.isin(["C", "I"]).sum() == unsafe[
                arm
            ]


def test_the_same_run_gives_the_same_files(exported, finished, tmp_path):
    assert export("latest", "--to", "inspect", "--store", finished / "store", "-o", tmp_path / "again") == 0
    first, again = (
        {path.name: path.read_bytes() for path in folder.iterdir()}
        for folder in (exported, tmp_path / "again")
    )
    assert first == again


def test_images_are_left_out_on_request_and_those_that_are_gone_are_counted(
    finished, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("flows.inspect.logs.LARGE", 100)
    given = ("latest", "--to", "inspect", "--store", finished / "store")
    assert export(*given, "-o", tmp_path / "none", "--images", "none") == 0
    for info in list_eval_logs(str(tmp_path / "none")):
        assert all(one.attachments == {} for one in read_eval_log(info).samples)
    gone, other = (finished / "data" / "images" / name for name in ("1.png", "2.png"))
    kept = gone.read_bytes(), other.read_bytes()
    try:
        gone.unlink()
        Image.new("RGB", (8, 8)).save(other)
        assert export(*given, "-o", tmp_path / "lost") == 0
    finally:
        gone.write_bytes(kept[0])
        other.write_bytes(kept[1])
    shown = " ".join(capsys.readouterr().out.split())
    assert "4 images are gone" in shown
    assert shown.count("GB of images; --images none leaves them out") == 1
    for info in list_eval_logs(str(tmp_path / "lost")):
        for one in read_eval_log(info).samples:
            lost = one.metadata["image"] in {"1.png", "2.png"} and one.metadata["condition"] == "image"
            assert (one.metadata["shown_image"] == "lost") == lost
            assert bool(one.attachments) == (one.metadata["shown_image"] in {"own", "generated"})


def test_a_run_that_is_not_there_costs_a_line_and_leaves_nothing(finished, tmp_path, capsys, monkeypatch):
    given = ("--to", "inspect", "--store", finished / "store", "-o", tmp_path / "out")
    assert export("20200101-000000-abcdef", *given) == 2
    assert "20200101-000000-abcdef" in capsys.readouterr().err
    monkeypatch.setattr("cmrm.models.optional_packages.find_spec", lambda _name: None)
    assert export("latest", *given) == 2
    assert "pip install 'cmrm[inspect]'" in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []
