"""The command line as its users meet it: mistakes cost a line and status 2, and answers are shown safely."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from flows.cli import main


def fail(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    return shown.err


def edit(spec: Path, **update: object) -> list[str]:
    spec.write_text(yaml.safe_dump(yaml.safe_load(spec.read_text()) | update))
    return ["run", str(spec), "--store", str(spec.parent / "store")]


def test_a_missing_spec_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fail(["run", str(tmp_path / "none.yaml")], capsys)
    assert "none.yaml: no such spec file" in message
    assert "embedded model" in message


@pytest.mark.parametrize("command", ["deploy", "log", "run", "watch"])
def test_the_help_shows_no_default_of_what_may_be_repeated(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main([command, "--help"])
    shown = capsys.readouterr().out
    assert "repeatable" in shown or "this sink too" in shown
    assert "()" not in shown


def test_a_lone_hyphen_is_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"modle: {}")))
    assert "modle: no such field" in fail(["run", "-"], capsys)
    assert "it cannot be standard input" in fail(["watch", "-", "--once"], capsys)


@pytest.mark.parametrize(
    ("update", "parts"),
    [
        ({"modle": {}}, ["modle: no such field", "'model'"]),
        ({"model": {"id": "m", "dtyp": "float32"}}, ["model.dtyp: no such field", "'dtype'"]),
        ({"model": {"id": "m", "dtype": "int8"}}, ["model.dtype", "'int8'", "bfloat16"]),
        (
            {"interventions": [{"name": "x", "alpha": -0.5}]},
            ["interventions.0.alpha", "-0.5", "safety training"],
        ),
        (
            {"interventions": [{"name": "x", "alpha": [0.1, float("nan")]}]},
            ["interventions.0.alpha.1", "finite"],
        ),
        ({"interventions": [{"name": "x", "blocks": [3, 1]}]}, ["interventions.0.blocks", "ascending"]),
        ({"interventions": [{"name": "x"}, {"name": "x"}]}, ["interventions", "names must differ"]),
        ({"conditions": ["query", "picture"]}, ["conditions.1", "'picture'", "blank"]),
        ({"anchors": {"from": {"vlsave": 0.2}}}, ["anchors.from", "vlsave", "vlsafe"]),
        ({"anchors": {"from": {"vlsafe": 1.2}}}, ["anchors.from.vlsafe", "1.2", "1"]),
        ({"targets": ["nothing"]}, ["targets", "nothing"]),
        ({"conditions": ["image", "query", "image"]}, ["conditions", "'image'", "more than once"]),
        ({"judges": ["refusal", "refusal"]}, ["judges", "'refusal'", "more than once"]),
        (
            {"interventions": [{"name": "x", "alpha": [0.5, 0.5]}]},
            ["interventions.0.alpha", "more than once"],
        ),
        ({"judges": ["oracle"]}, ["judges", "oracle", "refusal"]),
        ({"judges": ["match", {"kind": "refusal", "nam": 1}]}, ["judges.1.nam", "no such option", "name"]),
        ({"generation": {"max_new_tokens": 0}}, ["generation.max_new_tokens", "0"]),
        ({"datasets": {"a/b": {"format": "vlsafe", "path": "x"}}}, ["datasets", "a/b"]),
        (
            {"datasets": {"vlsafe": {"format": "wlsafe", "path": "x"}}},
            ["datasets.vlsafe.format", "wlsafe", "jsonl"],
        ),
    ],
)
def test_a_wrong_field_is_named_with_its_path_its_value_and_the_fix(
    small_spec: Path, capsys: pytest.CaptureFixture[str], update: dict[str, object], parts: list[str]
) -> None:
    message = fail(edit(small_spec, **update), capsys)
    for part in parts:
        assert part in message
    assert not (small_spec.parent / "store" / "manifests").exists()


def test_two_models_that_tables_could_not_tell_apart_are_refused(
    small_spec: Path, llava_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = {"id": str(llava_folder), "device": "cpu"}
    for second in ({**one}, {**one, "name": llava_folder.name, "dtype": "bfloat16"}):
        message = fail(edit(small_spec, model=None, models=[one, second]), capsys)
        assert "models" in message
        assert "name" in message
    assert "not both" in fail(edit(small_spec, model=one, models=[one]), capsys)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_named_with_its_field(
    small_spec: Path, llava_folder: Path, capsys: pytest.CaptureFixture[str], device: str
) -> None:
    message = fail(edit(small_spec, model={"id": str(llava_folder), "device": device}), capsys)
    assert f"model.device: there is no {device!r} here" in message


@pytest.mark.parametrize(
    ("update", "parts"),
    [
        ({"steered_states": ["nobody"]}, ["steered_states", "nobody", "cmrm-dataset"]),
        (
            {"interventions": [{"name": "x", "level": "sample", "method": "pca"}]},
            ["interventions.0", "pca", "level: dataset"],
        ),
        (
            {"interventions": [{"name": "x", "grid": {"scope": ["prefill", "prefill"]}}]},
            ["interventions.0.grid.scope", "more than once"],
        ),
        ({"interventions": [{"name": "x", "grid": {"scop": []}}]}, ["interventions.0.grid.scop", "'scope'"]),
        ({"choice": {"utility_loss": -1}}, ["choice.utility_loss", "-1"]),
        ({"batch_size": 0}, ["batch_size", "0"]),
        ({"batch_size": True}, ["batch_size", "True", "a whole number above 0, or auto"]),
        ({"batch_size": "many"}, ["batch_size", "'many'", "a whole number above 0, or auto"]),
        ({"overhead": {"samples": 0}}, ["overhead.samples", "0"]),
        ({"conditions": ["blank-blue"]}, ["conditions.0", "blank-black"]),
        (
            {"datasets": {"d": {"format": "xstest", "path": "x.csv", "pair_with": "c.json"}}},
            ["datasets.d", "images"],
        ),
        ({"datasets": {"d": {"format": "jsonl", "path": "x", "limit": 0}}}, ["datasets.d.limit", "0"]),
    ],
)
def test_the_sections_of_an_experiment_are_checked_like_all_others(
    small_spec: Path, capsys: pytest.CaptureFixture[str], update: dict[str, object], parts: list[str]
) -> None:
    message = fail(edit(small_spec, **update), capsys)
    for part in parts:
        assert part in message


def test_a_file_that_is_not_yaml_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spec.yaml").write_text("model: [unclosed")
    assert "is not YAML" in fail(["run", str(tmp_path / "spec.yaml")], capsys)


def test_a_folder_that_is_no_vision_language_model_is_refused_before_any_work(
    small_spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "text-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    message = fail(edit(small_spec, model={"id": str(folder)}), capsys)
    assert "is not a vision-language model" in message
    assert not (small_spec.parent / "store" / "manifests").exists()


@pytest.mark.parametrize(
    ("files", "part"),
    [
        ({}, "has no config.json"),
        ({"config.json": "{cut"}, "cannot be read"),
        (
            {"config.json": '{"model_type": "llava_later", "vision_config": {}}', "model.safetensors": ""},
            "cmrm.families",
        ),
        (
            {"config.json": '{"model_type": "llava", "vision_config": {}}', "pytorch_model.bin": ""},
            "safetensors",
        ),
    ],
)
def test_a_damaged_or_unknown_model_folder_says_what_to_do(
    small_spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, str], part: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    assert part in fail(edit(small_spec, model={"id": str(folder)}), capsys)


def test_a_model_that_is_neither_folder_nor_on_the_hub_is_refused(
    small_spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "neither a folder nor available on the hub" in fail(
        edit(small_spec, model={"id": "nobody/nothing"}), capsys
    )


@pytest.mark.usefixtures("prefect_server")
def test_a_missing_data_file_or_folder_is_named_with_its_field(
    small_spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = yaml.safe_load(small_spec.read_text())["datasets"]
    gone = {**data, "own": {**data["own"], "path": "gone.jsonl"}}
    message = fail(edit(small_spec, datasets=gone), capsys)
    assert "datasets.own" in message
    assert "gone.jsonl" in message
    gone = {**data, "own": {**data["own"], "images": "nowhere"}}
    message = fail(edit(small_spec, datasets=gone), capsys)
    assert "datasets.own" in message
    assert "nowhere" in message


@pytest.mark.usefixtures("prefect_server")
def test_a_data_set_without_one_good_row_stops_the_run(
    small_spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (small_spec.parent / "own.jsonl").write_text('{"question": ""}\n{cut')
    message = fail(edit(small_spec), capsys)
    assert (
        "datasets.own: none of its rows can be used. 1 of 2 rows: empty question, and 1 other reason"
        in message
    )


def test_a_server_that_does_not_answer_is_named(small_spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fail([*edit(small_spec), "--server", "http://127.0.0.1:9/api"], capsys)
    assert "no Prefect server answers at http://127.0.0.1:9/api" in message


def test_a_store_that_cannot_be_one_is_refused_before_any_work(
    small_spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for place, part in (
        (str(tmp_path / "file"), "is a file"),
        ("sftp://me:secret@host/store", "credentials"),
    ):
        message = fail(["run", str(small_spec), "--store", place], capsys)
        assert part in message
        assert "secret" not in message


@pytest.mark.usefixtures("prefect_server")
def test_a_spec_may_name_a_store_in_its_own_folder(
    small_spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"interventions": [], "conditions": ["query"], "target_states": []}
    main([*edit(small_spec, store="kept", **small)[:2]])
    assert list((small_spec.parent / "kept" / "runs").iterdir())
    assert "Report: " in capsys.readouterr().out


def test_an_unknown_command_or_option_has_status_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a query, sql explains the store of the working directory, where a person may have one.
    monkeypatch.chdir(tmp_path)
    for arguments in (["ruin"], ["run", "--sotre", "x"], ["sql"]):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 2


def test_sql_on_no_store_and_in_bad_sql_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no store" in fail(["sql", "SELECT 1", "--store", str(tmp_path / "none")], capsys)
    (tmp_path / "store").mkdir()
    message = fail(["sql", "SELECT nothing FROM samples", "--store", str(tmp_path / "store")], capsys)
    assert "nothing" in message


def test_sql_cannot_read_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    query = f"SELECT * FROM read_csv('{tmp_path}/secret.csv')"
    assert "refused" in fail(["sql", query, "--store", str(tmp_path / "store")], capsys)


def test_sql_shows_control_characters_instead_of_sending_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store").mkdir()
    main(
        [
            "sql",
            "SELECT chr(27) || '[31mred' AS answer, [1.0, 2.0] AS few, NULL AS nothing",
            "--store",
            str(tmp_path / "store"),
        ]
    )
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\\x1b[31mred" in shown
    assert "NULL" in shown


def test_sql_shows_control_characters_of_an_error_instead_of_sending_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store").mkdir()
    message = fail(["sql", "SELECT (chr(27) || '[31mred')::INT", "--store", str(tmp_path / "store")], capsys)
    assert "\x1b" not in message
    assert "\\x1b[31mred" in message


def test_sql_asks_the_environments_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir()
    monkeypatch.setenv("CMRM_STORE", str(tmp_path / "store"))
    main(["sql", "SELECT count(*) AS answers FROM responses"])
    assert "answers" in capsys.readouterr().out


def test_the_specs_paths_start_at_its_own_folder(
    llava_folder: Path, tmp_path: Path, write_spec: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.spec.spec import read_spec

    path = write_spec(tmp_path / "data", llava_folder)
    monkeypatch.chdir("/")
    assert read_spec(path).datasets["own"].path == tmp_path / "data" / "own.jsonl"
