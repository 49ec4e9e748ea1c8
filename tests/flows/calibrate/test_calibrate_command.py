"""`cmrm calibrate`: what it tells before labelling, what it makes of labels, and what it refuses in one line."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest

from flows.cli import main
from storage.sql.database import connect
from storage.store import Store
from tests.flows.calibrate.conftest import RUN, record_run
from tests.flows.shared_runs import run_plainly

SIZE = 120


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def give(hostile_store: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Give `cmrm calibrate` of the hostile run; what it prints, or what it says where it fails."""

    def give(*arguments: object, run: str = RUN, status: int = 0, store: Path = hostile_store) -> str:
        left: Any = 0
        try:
            main(["calibrate", run, "--store", str(store), *map(str, arguments)])
        except SystemExit as exit_:
            left = exit_.code
        shown = capsys.readouterr()
        assert left == status, shown.err
        assert "\x1b" not in shown.out + shown.err
        assert "Traceback" not in shown.err
        return shown.err if status else shown.out

    return give


def read_sheet(folder: Path) -> list[dict[str, str]]:
    with (folder / "sheet.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_labels(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["sheet", "id", "label", "labeller"], *rows])
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    return path


def say(row: dict[str, str]) -> str:
    """What a person says: long answers help, and what the stricter judge lets pass does not."""
    return "s" if row["answer"].startswith("Sorry") else "u"


@pytest.fixture
def labelled(give: Callable[..., str], tmp_path: Path) -> tuple[list[dict[str, str]], Path]:
    """A sheet of the hostile run, and a person's labels of it."""
    give("--size", SIZE, "--out", tmp_path / "sheet")
    rows = read_sheet(tmp_path / "sheet")
    labels = [(row["sheet"], row["id"], say(row), "=anna") for row in rows]
    return rows, write_labels(tmp_path / "labels.csv", labels)


def test_how_many_labels_a_width_takes_is_told_before_anything_is_written(
    give: Callable[..., str], tmp_path: Path
) -> None:
    told = give("--width", 0.4)
    assert max(map(len, told.splitlines())) <= 80
    flat = " ".join(told.split())
    assert "answers to harmful questions, from" in flat
    assert re.search(r"about \d+ points wide for sensitivity and \d+ points for specificity\.", flat)
    wide = int(re.search(r"For 40 points or less it takes about (\d+) labels\.", flat)[1])
    narrow = " ".join(give("--width", 0.05).split())
    assert re.search(
        r"For 5\.0 points or less it would take about [\d,]+ labels, more than the run has", narrow
    )
    assert 0 < wide < 150
    assert not list(tmp_path.iterdir())


def test_a_sheet_holds_as_many_answers_as_asked_for(give: Callable[..., str], tmp_path: Path) -> None:
    shown = give("--size", SIZE, "--out", tmp_path / "a sheet")
    assert f"Then: cmrm calibrate {RUN} --store " in shown
    assert f"--labels '{tmp_path}/a sheet/labels.csv'" in shown
    rows = read_sheet(tmp_path / "a sheet")
    assert len(rows) == SIZE == len({row["id"] for row in rows})
    assert {row["label"] for row in rows} == {""}
    before = (tmp_path / "a sheet" / "sheet.html").read_bytes()
    give("--size", SIZE, "--out", tmp_path / "again")
    assert (tmp_path / "again" / "sheet.html").read_bytes() == before
    give("--size", SIZE, "--seed", 1, "--out", tmp_path / "other")
    assert {row["id"] for row in read_sheet(tmp_path / "other")}.isdisjoint(row["id"] for row in rows)


def test_labels_tell_each_judges_errors_and_correct_the_rates(
    give: Callable[..., str], labelled: tuple[list[dict[str, str]], Path], tmp_path: Path
) -> None:
    rows, labels = labelled
    shown = give("--labels", labels, "--out", tmp_path / "out")
    assert max(map(len, shown.rpartition("Files:")[0].splitlines())) <= 80
    unsafe = sum(say(row) == "u" for row in rows)
    assert f"{SIZE} of {SIZE} answers labelled: {unsafe} unsafe, {SIZE - unsafe} safe." in shown
    for words in (
        "Sensitivity",
        "Specificity",
        "Judged unsafe",
        "Corrected",
        "Labels alone",
        "refusal and guard: ",
    ):
        assert words in shown
    found = json.loads((tmp_path / "out" / "calibration.json").read_text(encoding="utf-8"))
    refusal, guard = found["judges"]
    # This person and `refusal` say the same; `guard` passes what `refusal` flags in every tenth question.
    assert (refusal["sensitivity"]["value"], refusal["specificity"]["value"]) == (1.0, 1.0)
    assert refusal["kappa"]["value"] == pytest.approx(1.0)
    assert guard["sensitivity"]["value"] < 1.0 == guard["specificity"]["value"]
    assert all(arm["corrected"]["value"] == pytest.approx(arm["judged"]["value"]) for arm in refusal["arms"])
    assert found["labels"] == {
        "unsafe": unsafe,
        "safe": SIZE - unsafe,
        "unsure": 0,
        "labellers": {"=anna": SIZE},
    }
    assert [(one["first"], one["second"]) for one in found["agreement"]] == [("refusal", "guard")]
    text = (tmp_path / "out" / "calibration.md").read_text(encoding="utf-8")
    assert "## refusal" in text
    assert "refusal and people: 1.00" in text


def test_without_a_folder_the_files_lie_beside_the_report_and_belong_to_the_store(
    tmp_path: Path, give: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    record_run(Store.create(tmp_path / "store"), RUN, samples=6, judges=("refusal",))
    give("--size", 60, "--out", tmp_path / "sheet", store=tmp_path / "store")
    rows = [(row["sheet"], row["id"], say(row), "") for row in read_sheet(tmp_path / "sheet")]
    give("--labels", write_labels(tmp_path / "labels.csv", rows), store=tmp_path / "store")
    beside = tmp_path / "store" / "reports" / RUN
    assert {path.name for path in beside.iterdir()} == {"calibration.json", "calibration.md", "labelled.csv"}
    main(["store", "ls", "--store", str(tmp_path / "store")])
    assert "not the store's own" not in capsys.readouterr().out
    Store.open(tmp_path / "store").forget_run(RUN)
    assert not list(beside.glob("*"))


def test_a_judge_that_was_added_later_is_held_against_the_same_labels(
    tmp_path: Path, give: Callable[..., str]
) -> None:
    store = Store.create(tmp_path / "store")
    later = RUN.replace("000000", "000001")
    record_run(store, RUN, samples=6, judges=("refusal",))
    record_run(store, later, samples=6, judges=("refusal", "guard"))
    give("--size", 60, "--out", tmp_path / "sheet", store=tmp_path / "store")
    rows = [(row["sheet"], row["id"], say(row), "") for row in read_sheet(tmp_path / "sheet")]
    labels = write_labels(tmp_path / "labels.csv", rows)
    give("--labels", labels, "--out", tmp_path, run=later, store=tmp_path / "store")
    found = json.loads((tmp_path / "calibration.json").read_text(encoding="utf-8"))
    assert [one["judge"] for one in found["judges"]] == ["refusal", "guard"]
    store.forget_run(RUN)
    refused = give("--labels", labels, run=later, store=tmp_path / "store", status=2)
    assert "is not in the store" in refused


def test_a_sheet_that_a_spreadsheet_saved_with_semicolons_is_read(
    give: Callable[..., str], labelled: tuple[list[dict[str, str]], Path], tmp_path: Path
) -> None:
    rows, _ = labelled
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(rows[0]), delimiter=";", lineterminator="\r\n")
    table.writeheader()
    table.writerows({**row, "label": "Unsafe" if number < 2 else ""} for number, row in enumerate(rows))
    saved = tmp_path / "saved.csv"
    saved.write_text("\ufeff" + text.getvalue(), encoding="utf-8", newline="")
    shown = give("--labels", saved, "--out", tmp_path)
    assert f"2 of {SIZE} answers labelled: 2 unsafe, 0 safe." in shown


def test_several_people_are_held_against_each_other(
    give: Callable[..., str], labelled: tuple[list[dict[str, str]], Path], tmp_path: Path
) -> None:
    rows, labels = labelled
    others = [
        (
            row["sheet"],
            row["id"],
            "unsure" if number % 5 == 0 else "safe" if number % 7 == 0 else say(row),
            "bo",
        )
        for number, row in enumerate(rows)
    ]
    second = write_labels(tmp_path / "second.csv", others)
    shown = give("--labels", labels, "--labels", second, "--out", tmp_path)
    assert re.search(r"=anna and bo: 0\.\d\d \[0\.\d\d, \d\.\d\d\], 96 answers", shown)
    assert "unsure, left out." in " ".join(shown.split())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [*rows, [rows[0][0], "a0", "u", ""]], "labels.csv, row 122: id 'a0' is not on sheet"),
        (lambda rows: [*rows, rows[0]], "labels.csv, row 122: '=anna' has labelled"),
        (
            lambda rows: [*rows[:3], [rows[3][0], rows[3][1], "may\x1bbe", ""]],
            r"labels.csv, row 5: label 'may\x1bbe' is unknown; write u (unsafe), s (safe) or x (unsure)",
        ),
        (
            lambda rows: [["20260101-000000-abcdef.n90.s0.00000000", *row[1:]] for row in rows],
            "labels.csv, row 2: '20260101-000000-abcdef.n90.s0.00000000' is no sheet of run",
        ),
        (
            lambda rows: [*rows[:3], [rows[3][0].replace("n120", "n121"), *rows[3][1:]]],
            "labels.csv, row 5: it is of sheet '20260101-000000-abcdef.n121",
        ),
        (
            lambda rows: [["20250101-000000-abcdef.n90.s0.00000000", *row[1:]] for row in rows],
            "and run 20250101-000000-abcdef that it is of is not in the store",
        ),
        (lambda rows: [["=1+1", *row[1:]] for row in rows], "labels.csv, row 2: '=1+1' is no sheet of run"),
        (lambda rows: [[*row[:2], "", ""] for row in rows], "labels.csv: no row has a label; write u"),
        (lambda rows: [[*row[:2], "x", ""] for row in rows], "no answer of sheet"),
        (lambda rows: [*rows[:2], rows[2][:3]], "labels.csv, row 4: 3 fields where the header has 4"),
    ],
    ids=["id", "twice", "word", "sheet", "mixed", "run", "formula", "empty", "unsure", "torn"],
)
def test_labels_that_do_not_fit_are_refused_in_one_line(
    give: Callable[..., str],
    labelled: tuple[list[dict[str, str]], Path],
    change: Callable[[Any], Any],
    message: str,
) -> None:
    rows, path = labelled
    labels = [[row["sheet"], row["id"], say(row), "=anna"] for row in rows]
    said = give("--labels", write_labels(path, change(labels)), status=2)
    assert message in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x"], "a sheet needs --size"),
        (["--labels", "a.csv", "--size", "9"], "--labels reads a sheet and --size makes one"),
        (["--labels", "nowhere.csv"], "nowhere.csv"),
        (["--labels", "."], "it is a folder"),
        (["--size", "3", "--out", "x"], "strata"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    give: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    said = give(*arguments, status=2)
    assert message in said
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_end_to_end_on_a_real_run(
    tmp_path: Path,
    llava_folder: Path,
    write_short_spec: Callable[..., Path],
    give: Callable[..., str],
) -> None:
    result = run_plainly(write_short_spec(tmp_path / "data", llava_folder), tmp_path / "store")
    with connect(tmp_path / "store", run=result.run_id) as sql:
        counted = sql.execute(
            "SELECT condition, intervention, verdict, count(*) FROM judgements JOIN samples USING (dataset, sample_id) "
            "WHERE judge = 'refusal' AND harmful AND verdict IN ('unsafe', 'safe') GROUP BY ALL"
        ).fetchall()
    answers = sum(count for *_, count in counted)
    give("--size", answers, "--out", tmp_path / "sheet", run="latest", store=tmp_path / "store")
    page = (tmp_path / "sheet" / "sheet.html").read_text(encoding="utf-8")
    assert page.count("data:image/webp;base64,") == 4
    rows = read_sheet(tmp_path / "sheet")
    assert len(rows) == answers
    half = [(row["sheet"], row["id"], "us"[number % 2], "") for number, row in enumerate(rows)]
    labels = write_labels(tmp_path / "labels.csv", half)
    give("--labels", labels, "--out", tmp_path / "out", run=result.run_id, store=tmp_path / "store")
    found = json.loads((tmp_path / "out" / "calibration.json").read_text(encoding="utf-8"))
    (judge,) = found["judges"]
    assert {(arm["condition"], arm["intervention"], arm["judged"]["successes"]) for arm in judge["arms"]} == {
        (
            condition,
            intervention,
            sum(n for c, i, v, n in counted if (c, i, v) == (condition, intervention, "unsafe")),
        )
        for condition, intervention, *_ in counted
    }
    # The labels as a table for SQL, as the page reads them.
    page = (Path(__file__).parents[3] / "docs" / "calibrate.md").read_text(encoding="utf-8")
    (query,) = re.findall(r"```sql\n(.*?)```", page, flags=re.DOTALL)
    by_arm = duckdb.sql(query.replace("'labelled.csv'", f"'{tmp_path}/out/labelled.csv'")).fetchall()
    assert sum(labels for *_, labels, _, _ in by_arm) == answers
    refused = sum(count for *_, verdict, count in counted if verdict == "safe")
    assert sum(missed for *_, missed, _ in by_arm) <= refused
    table = duckdb.sql(
        f"SELECT sum(weight), count(*) FILTER (label = 'unsafe') FROM read_csv('{tmp_path}/out/labelled.csv')"
    ).fetchall()
    assert table == [(pytest.approx(answers), (answers + 1) // 2)]
