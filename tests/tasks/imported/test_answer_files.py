"""Files of answers that other systems gave: every kind of file, what its rows say, and what is wrong with them."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cmrm.errors import UserError
from tasks.imported.files import AnswersFile
from tasks.imported.rows import MOST_CHARACTERS

ROWS = [
    {"id": "a", "answer": "one, two", "tokens": 3, "finish_reason": "length"},
    {"id": "b", "answer": 'she said "no"\nand left', "tokens": None, "finish_reason": None},
]


def open_file(path: Path, **more: Any) -> AnswersFile:
    return AnswersFile(name="gpt", path=path, shown=path.name, **{"condition": "image", **more})


def read(path: Path, **more: Any) -> list[tuple[Any, ...]]:
    return [
        (one.sample_id, one.text, one.fault, one.tokens, one.finish_reason)
        for one in open_file(path, **more).read()
    ]


def test_the_same_answers_come_from_jsonl_csv_tsv_and_parquet_compressed_or_not(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    quoted = [
        "id{0}answer{0}tokens{0}finish_reason\n",
        'a{0}"one, two"{0}3{0}length\n',
        'b{0}"she said ""no""\nand left"{0}{0}\n',
    ]
    files = {
        "a.jsonl": ("\ufeff" + lines.replace("\n", "\r\n")).encode(),
        "a.ndjson.gz": gzip.compress(lines.encode()),
        "a.csv": "".join(quoted).format(",").encode(),
        "a.tsv": "".join(quoted).format("\t").encode(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("".join(quoted).replace("{0}", ";"))

    expected = [("a", ROWS[0]["answer"], "", 3, "length"), ("b", ROWS[1]["answer"], "", None, None)]
    for name in (*files, "a.parquet"):
        assert read(tmp_path / name) == expected, name
    assert read(tmp_path / "b.csv", delimiter=";") == expected


def test_columns_may_have_other_names_and_lie_inside_others(tmp_path: Path) -> None:
    body = {"choices": [{"message": {"content": "no"}}], "usage": {"completion_tokens": 4}}
    path = tmp_path / "batch.jsonl"
    path.write_text(
        json.dumps({"custom_id": 7, "response": {"body": body}, "shown": "query", "of": "vlsafe"})
    )
    columns = {
        "id": "custom_id",
        "answer": "response.body.choices.0.message.content",
        "tokens": "response.body.usage.completion_tokens",
        "condition": "shown",
        "dataset": "of",
    }

    (given,) = open_file(path, columns=columns, dataset="else").read()

    assert (given.sample_id, given.text, given.tokens) == ("7", "no", 4)
    assert (given.condition, given.dataset) == ("query", "vlsafe")


def test_a_table_exported_from_a_store_needs_no_columns(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    path.write_text(json.dumps({"dataset": "own", "sample_id": "3", "condition": "blank", "answer": "x"}))

    (given,) = open_file(path).read()

    assert (given.dataset, given.sample_id, given.condition, given.text) == ("own", "3", "blank", "x")


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (None, "the answer is null"),
        ("", "the answer is empty"),
        (" \n", "the answer is empty"),
        (3, "the answer is a number, not text"),
        (["a"], "the answer is a list, not text"),
        ("a\0b", "the answer holds a NUL character or is not valid UTF-8"),
        ("\ud800", "the answer holds a NUL character or is not valid UTF-8"),
        ("x" * (MOST_CHARACTERS + 1), "the answer has 4,194,305 characters, and at most 4,194,304 are read"),
    ],
)
def test_an_answer_that_cannot_be_used_has_its_reason(tmp_path: Path, answer: Any, fault: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"id": "a", "answer": answer}))

    assert read(path) == [("a", "", fault, None, None)]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"error": False, "answer": "x"}, ""),
        ({"error": {}, "answer": "x"}, ""),
        ({"error": [], "answer": "x"}, ""),
        ({"error": {"code": "expired", "message": "too late"}}, "error: too late"),
        ({"error": {"code": "expired"}, "answer": None}, "error: {'code': 'expired'}"),
        ({"error": "a\0b"}, None),
    ],
)
def test_an_error_may_be_a_text_or_an_object(tmp_path: Path, row: dict[str, Any], fault: str | None) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"id": "a", **row}))

    if fault is None:
        with pytest.raises(UserError, match="line 1: field 'error' holds a NUL character"):
            read(path)
    else:
        assert [one[1:3] for one in read(path)] == [("" if fault else "x", fault)]


def test_a_long_error_is_cut(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        "".join(
            json.dumps({"id": number, "error": error}) + "\n"
            for number, error in enumerate(["x" * 10_000, {"message": "x" * 10_000}, {"x": "x" * 10_000}])
        )
    )

    assert all(10 < len(fault) < 400 for _, _, fault, *_ in read(tmp_path / "a.jsonl"))


def test_a_row_with_an_error_needs_no_answer_and_one_with_an_answer_no_error(tmp_path: Path) -> None:
    body = {"choices": [{"message": {"content": "no"}}], "usage": {"completion_tokens": 4}}
    path = tmp_path / "batch.jsonl"
    rows = [
        {"custom_id": "a", "response": {"body": body}},
        {"custom_id": "b", "response": {"body": {"error": {"message": "filtered"}}}},
        {"custom_id": "c", "response": None, "error": {"message": "expired"}},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {
        "id": "custom_id",
        "answer": "response.body.choices.0.message.content",
        "tokens": "response.body.usage.completion_tokens",
        "error": "response.body.error",
    }

    assert [one[:4] for one in read(path, columns=columns)] == [
        ("a", "no", "", 4),
        ("b", "", "error: filtered", None),
        ("c", "", "error: expired", None),
    ]
    # A column that lies in no other is looked for in each row, so that a wrong name is seen.
    with pytest.raises(UserError, match="line 1: no field 'err'"):
        read(path, columns={**columns, "error": "err"})


def test_a_stated_data_set_is_that_of_all_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"id": "a", "answer": "x", "dataset": "its name elsewhere"}))

    assert [one.dataset for one in open_file(path).read()] == ["its name elsewhere"]
    assert [one.dataset for one in open_file(path, dataset="mine").read()] == ["mine"]


@pytest.mark.parametrize(("task", "condition"), [("cmrm/vlsafe", "query"), ("asked", "image")])
def test_a_log_of_a_task_of_cmrm_says_how_its_samples_were_asked(
    tmp_path: Path, task: str, condition: str
) -> None:
    pytest.importorskip("inspect_ai")
    from inspect_ai.dataset import Sample
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSample, EvalSpec, write_eval_log
    from inspect_ai.model import ModelOutput

    sample = Sample(id="a", input="what is it?", metadata={"condition": "query"})
    log = EvalLog(
        eval=EvalSpec(
            created="2026-01-01T00:00:00+00:00",
            task=task,
            dataset=EvalDataset(samples=1, sample_ids=["a"]),
            model="mockllm/model",
            config=EvalConfig(epochs=1),
        ),
        samples=[
            EvalSample(
                id="a",
                epoch=1,
                input=sample.input,
                target="",
                metadata=sample.metadata,
                output=ModelOutput.from_content("mockllm/model", "a bird"),
            )
        ],
        status="success",
    )
    write_eval_log(log, str(tmp_path / "a.eval"))

    (given,) = open_file(tmp_path / "a.eval").read()

    assert (given.sample_id, given.text, given.condition) == ("a", "a bird", condition)


def test_an_empty_cell_of_a_csv_file_is_an_answer_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,answer,error\na,,\nb,,timed out\n")

    assert [one[:3] for one in read(tmp_path / "a.csv")] == [
        ("a", "", "the answer is null"),
        ("b", "", "error: timed out"),
    ]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"id": "a", "answer": "x", "id": "b"}', "line 1: key 'id' stands there twice; keep one"),
        (b'{"id": {"a": 1}, "answer": "x"}', "line 1: field 'id' is an object, not text"),
        (b'{"id": " ", "answer": "x"}', "line 1: field 'id' is empty"),
        (b'{"id": "a", "answer": "x", "tokens": -1}', "line 1: field 'tokens' is '-1', no number of tokens"),
        (b'{"id": "a", "answer": "x", "tokens": 99999999999}', "no number of tokens"),
        (b'{"id": "a\\ud800", "answer": "x"}', "line 1: field 'id' is not valid UTF-8"),
        (b"[" * 100_000, "not JSONL (one object a line); write each answer as an object on a line of its own"),
        (b'{"id":' + b"[" * 100_000, "line 1: not valid JSON"),
        (b"\xff\xfe{\x00", "is UTF-16; save it as UTF-8"),
        (b"\x1f\x8brubbish", "cannot be decompressed"),
        (b'{"id": "' + b"a" * 2**24 + b'"}', "line 1: the line is longer than 16,777,216 bytes"),
    ],
)  # fmt: skip
def test_hostile_rows_cost_one_short_line(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(data)

    with pytest.raises(UserError) as error:
        read(tmp_path / "a.jsonl")

    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_another_delimiter_of_a_csv_file_is_named_as_what_to_state(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id;answer\na;no, never\n")

    with pytest.raises(UserError, match=r"line 2: 2 fields where the header has 1; .*\(`delimiter`\)"):
        read(tmp_path / "a.csv")


def test_control_characters_of_a_file_stay_out_of_messages(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"\x1b[31mred": "a", "answer": "x"}))

    with pytest.raises(UserError) as error:
        read(tmp_path / "a.jsonl")

    assert "\x1b" not in str(error.value)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "a.jsonl")

    with pytest.raises(UserError, match=r"arms\.gpt\.answers: .*is a FIFO"):
        open_file(tmp_path / "a.jsonl").digest()


def test_an_inspect_log_without_inspect_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.eval").write_bytes(b"PK\x03\x04")
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)

    with pytest.raises(
        UserError, match=r"a\.eval: .*inspect_ai is not installed; .*pip install 'cmrm\[inspect\]'"
    ):
        read(tmp_path / "a.eval")


@pytest.mark.parametrize("name", ["a.eval", "a.json"])
@pytest.mark.parametrize("data", [b"", b"{}", b"PK\x03\x04rubbish", b'[{"id": "a"}]'])
def test_what_inspect_cannot_read_costs_one_line(tmp_path: Path, name: str, data: bytes) -> None:
    pytest.importorskip("inspect_ai")
    (tmp_path / name).write_bytes(data)

    with pytest.raises(UserError, match="cannot read it as a log") as error:
        read(tmp_path / name)

    assert "\n" not in str(error.value)


def test_an_archive_that_would_fill_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zipfile

    monkeypatch.setattr("tasks.imported.inspect_logs.MOST_MEMBER_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "a.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("samples/a_epoch_1.json", b"0" * 1001)

    with pytest.raises(UserError, match="has 1,001 bytes, and at most 1,000 are read"):
        read(tmp_path / "a.eval")
