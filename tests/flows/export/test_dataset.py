"""`cmrm export --to dataset`: read back by `datasets`, held against the store by DuckDB, and nothing harmful in it."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import datasets
import duckdb
import httpx
import huggingface_hub
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub.errors import RepositoryNotFoundError
from PIL import Image

from flows.cli import main
from storage.store import Store
from tasks.report import stage as report
from tests.made_up import EVIL, make_samples
from tests.made_up_run import make_up
from tests.made_up_store import commit_rows

FAILURES = {
    "embed": "this model fails on it: ValueError",
    "import": "gpt: error",
    "judge": "judge guard: TypeError",
}
PAGE = Path(__file__).parents[3] / "docs" / "hub.md"


def status(*arguments) -> int:
    try:
        main(["export", *map(str, arguments)])
    except SystemExit as ended:
        return int(ended.code)
    return 0


def export(store, output, *options) -> Path:
    assert status("latest", "--store", store, "--to", "dataset", "-o", output, *options) == 0
    return output


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory) -> Path:
    """The run with its states, as it would be pushed."""
    output = tmp_path_factory.mktemp("dataset") / "mine"
    return export(finished / "store", output, "--states", "--push", "me/mine", "--dry-run")


@pytest.fixture(scope="module")
def load(exported, tmp_path_factory):
    """The reader of one table by `datasets`, with a cache of its own."""
    cache = tmp_path_factory.mktemp("cache")
    return lambda name: datasets.load_dataset(str(exported), name, split="test", cache_dir=str(cache))


def ask(store, query):
    """The rows of a query over the Parquet files of a store with one run, as mappings."""
    names = ("samples", "responses", "judgements", "hidden_states", "quarantine")
    with duckdb.connect() as connection:
        for name in names:
            if files := sorted(map(str, (store / name).rglob("*.parquet"))):
                connection.read_parquet(files, union_by_name=True, hive_partitioning=True).create_view(name)
        return connection.sql(query).to_arrow_table().to_pylist()


def read_all(folder) -> list[tuple[str, object]]:
    """Every text and every byte string in the files of a folder, out of their compression, by file."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix != ".parquet":
            found.append((path.name, path.read_text(encoding="utf-8")))
            continue
        table = pq.read_table(path)
        found.append((path.name, str(table.schema.metadata)))
        for column in table.flatten().columns:
            found += [(path.name, value) for value in column.to_pylist() if isinstance(value, str | bytes)]
    return found


def test_each_answer_is_a_row_with_the_verdict_of_each_judge(finished, load):
    rows = ask(
        finished / "store",
        """
        SELECT r.model, r.dataset, r.sample_id, r.condition, r.intervention, r.alpha, r.tokens, s.harmful, s.question,
               r.answer, s.reference, refusal.verdict AS verdict_refusal, refusal.refused AS refused_refusal,
               match.verdict AS verdict_match, match.score AS score_match
        FROM responses r JOIN samples s USING (dataset, sample_id)
        JOIN (FROM judgements WHERE judge = 'refusal') refusal
          ON (r.dataset, r.sample_id, r.condition, r.intervention) =
             (refusal.dataset, refusal.sample_id, refusal.condition, refusal.intervention)
             AND r.alpha IS NOT DISTINCT FROM refusal.alpha
        JOIN (FROM judgements WHERE judge = 'match') match
          ON (r.dataset, r.sample_id, r.condition, r.intervention) =
             (match.dataset, match.sample_id, match.condition, match.intervention)
             AND r.alpha IS NOT DISTINCT FROM match.alpha
        """,
    )
    for row in rows:
        if row["harmful"]:
            row.update(question=None, answer=None, reference=None)
    found = load("answers").remove_columns(["image"]).to_list()
    assert len(found) == len(rows) == 135
    assert {row["harmful"] for row in rows} == {True, False}
    named = list(rows[0])
    expected = sorted(json.dumps(row, default=str) for row in rows)
    assert sorted(json.dumps({name: row[name] for name in named}) for row in found) == expected
    assert all(row["withheld"] == row["harmful"] for row in found)
    raw = {
        (row["withheld"], name, row[name] is None) for row in found for name in ("raw_refusal", "raw_match")
    }
    assert {(True, "raw_refusal", True), (True, "raw_match", True)} == {one for one in raw if one[0]}
    assert (False, "raw_refusal", False) in raw


def test_a_samples_answers_stand_together_in_the_order_of_the_report(finished, exported, load):
    rows = load("answers").select_columns(["dataset", "sample_id", "arm"]).to_list()
    (report,) = (finished / "store" / "reports").glob("*/report.md")
    table = report.read_text().split("## Main table")[1].split("## ")[0]
    arms = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][2:]
    assert len(arms) == 9
    samples = [(row["dataset"], row["sample_id"]) for row in rows][:: len(arms)]
    assert [(row["dataset"], row["sample_id"], row["arm"]) for row in rows] == [
        (*sample, arm) for sample in samples for arm in arms
    ]
    own = [int(sample) for dataset, sample in samples if dataset == "own"]
    assert own == sorted(own)


def test_an_image_is_the_file_that_was_shown(finished, load):
    names = {
        (row["dataset"], row["sample_id"]): row["image"] for row in ask(finished / "store", "FROM samples")
    }
    seen = 0
    for name in ("answers", "samples"):
        raw = load(name).cast_column("image", datasets.Image(decode=False)).to_list()
        for row, shown in zip(load(name), raw, strict=True):
            if row["harmful"]:
                assert row["image"] is None
                continue
            path = finished / "data" / "images" / names[row["dataset"], row["sample_id"]]
            assert shown["image"] == {"bytes": path.read_bytes(), "path": path.name}
            assert row["image_digest"] == hashlib.sha256(path.read_bytes()).hexdigest()
            np.testing.assert_array_equal(np.asarray(row["image"]), np.asarray(Image.open(path)))
            seen += 1
    assert seen > 50


def test_states_are_those_of_the_store_as_lists_of_one_length(finished, load):
    found = load("states")
    assert found.features["vector"] == datasets.List(datasets.Value("float32"), length=32)
    names = ("dataset", "sample_id", "condition", "intervention", "alpha", "position", "block")
    expected = {
        tuple(row[name] for name in names): np.asarray(row["vector"], np.float32)
        for row in ask(finished / "store", "FROM hidden_states")
    }
    rows = found.to_list()
    assert len(rows) == len(expected) == 168
    for row in rows:
        vector = np.asarray(row["vector"], np.float32)
        assert vector.tobytes() == expected[tuple(row[name] for name in names)].tobytes()


def test_the_files_alone_say_the_features_that_the_card_says(exported, load):
    front = yaml.safe_load((exported / "README.md").read_text().split("---")[1])
    for info in front["dataset_info"]:
        name = info["config_name"]
        said = datasets.Features._from_yaml_list(info["features"])
        schema = pq.read_schema(exported / name / "00000.parquet")
        assert datasets.Features.from_arrow_schema(schema) == said == load(name).features
        table = (exported / "README.md").read_text().split(f"### `{name}`")[1].split("##")[0]
        listed = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][1:]
        assert [one.replace("\\", "") for one in listed] == schema.names
    assert [one["config_name"] for one in front["configs"]] == ["answers", "samples", "states"]
    assert "license" not in front


def test_no_text_of_a_harmful_sample_is_anywhere_in_the_folder(finished, exported, tmp_path):
    rows = ask(
        finished / "store",
        "SELECT s.harmful, s.question, s.caption, r.answer FROM responses r JOIN samples s USING (dataset, sample_id)",
    )
    questions = {row["question"] for row in rows if row["harmful"]}
    captions = {row["caption"] for row in rows if row["harmful"]}
    harmless = {row["answer"] for row in rows if not row["harmful"]}
    # A random model's answers are a few letters, which digests have too: these are compared as a whole.
    answers = {row["answer"] for row in rows if row["harmful"]} - harmless
    assert len(questions) == 9
    assert len(answers) > 5
    texts = {text for _, text in read_all(exported) if isinstance(text, str)}
    assert not [one for one in (*questions, *captions) if any(one in text for text in texts)]
    assert not answers & texts
    whole = export(finished / "store", tmp_path / "all", "--include-harmful")
    assert {text for _, text in read_all(whole)} > questions | captions | answers
    card = (whole / "README.md").read_text()
    assert "not-for-all-audiences" in yaml.safe_load(card.split("---")[1])["tags"]
    assert not pq.read_table(whole / "answers")["withheld"].to_numpy().any()


def test_the_cards_table_is_the_reports(finished, exported):
    (report,) = (finished / "store" / "reports").glob("*/report.md")
    rows = [
        [line for line in text.split("## Main table")[1].split("\n## ")[0].splitlines() if line[:1] == "|"]
        for text in (report.read_text(), (exported / "README.md").read_text())
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 11


def test_the_card_says_where_it_comes_from(finished, exported, llava_folder):
    card = (exported / "README.md").read_text()
    (shift,) = (finished / "store" / "shifts").rglob("*.safetensors")
    store = Store.open(str(finished / "store"))
    for part in (
        store.find_run("latest")["run_id"],
        hashlib.sha256(shift.read_bytes()).hexdigest(),
        f"transformers {version('transformers')}",
        "135 answers were asked for: 135 are here, and 0 questions",
        "95 rows have `withheld` = true",
        "Set `license` above",
    ):
        assert part in card
    assert str(llava_folder) not in card
    assert str(finished) not in card


def test_evaluation_results_are_in_the_hubs_form_with_the_rates_of_the_store(finished, exported):
    (folder,) = (exported / "eval-results").iterdir()
    files = sorted((folder / ".eval_results").glob("*.yaml"))
    assert len(files) == 9
    entries = {
        (path.name, entry.task_id): entry
        for path in files
        for entry in huggingface_hub.parse_eval_result_entries(yaml.safe_load(path.read_text()))
    }
    ((unsafe,),) = (
        row.values()
        for row in ask(
            finished / "store",
            "SELECT 100 * avg((verdict = 'unsafe')::INT) FROM judgements WHERE judge = 'refusal' "
            "AND dataset = 'vlsafe' AND intervention = 'own' AND verdict IN ('safe', 'unsafe')",
        )
    )
    own = entries["cmrm-3-own-1.yaml", "unsafe-vlsafe-refusal"]
    assert own.value == pytest.approx(unsafe, abs=0.005)
    assert (own.dataset_id, own.source_url) == ("me/mine", "https://huggingface.co/datasets/me/mine")
    assert own.notes.startswith("own α=1; judge refusal; 100.0 [")
    assert f"eval-results/{folder.name} ." in (exported / "README.md").read_text()
    # What was not measured has no entry.
    assert ("cmrm-1-CMRM-30.yaml", "unsafe-vlsafe-refusal") not in entries


def test_a_push_makes_a_private_data_set_and_a_dry_one_lists_its_files(
    finished, tmp_path, capsys, monkeypatch
):
    calls = []

    def create(_hub, name, **options):
        calls.append((name, options))
        return SimpleNamespace(repo_id=name)

    def upload(_hub, *, repo_id, repo_type, folder_path, commit_message, delete_patterns):
        calls.append((repo_id, repo_type, sorted(path.name for path in folder_path.iterdir())))
        # Files of an earlier push, such as a second one of answers, would be read beside the new ones.
        earlier = ["README.md", ".gitattributes", "answers/00001.parquet", "states/00000.parquet", "mine.txt"]
        assert list(huggingface_hub.utils.filter_repo_objects(earlier, allow_patterns=delete_patterns)) == [
            "answers/00001.parquet",
            "states/00000.parquet",
        ]
        return SimpleNamespace(commit_url="https://hub/commit/1")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    output = export(finished / "store", tmp_path / "listed", "--push", "me/mine", "--dry-run")
    listed = capsys.readouterr().out.partition("Would be uploaded to me/mine:")[2].partition("Exported")[0]
    files = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert {line.split()[-1] for line in listed.splitlines() if line.strip()} == files
    assert calls == []
    export(finished / "store", tmp_path / "pushed", "--images", "none", "--push", "me/mine")
    assert calls == [
        ("me/mine", {"repo_type": "dataset", "private": True, "exist_ok": True}),
        ("me/mine", "dataset", ["README.md", "answers", "eval-results", "samples"]),
    ]
    assert "Pushed: https://hub/commit/1" in capsys.readouterr().out
    assert "image" not in pq.read_schema(tmp_path / "pushed" / "answers" / "00000.parquet").names


@pytest.mark.parametrize(
    "case",
    [
        (SimpleNamespace(private=False, gated=False), "the repository is public"),
        (SimpleNamespace(private=False, gated="manual"), ""),
        (SimpleNamespace(private=True, gated=False), ""),
        (RepositoryNotFoundError("404", response=httpx.Response(404, request=httpx.Request("GET", "http://x"))), ""),
        (OSError("no route"), "the hub does not say who can read it (no route)"),
    ],
)  # fmt: skip
def test_harmful_text_is_pushed_to_no_repository_that_anybody_can_read(
    hostile, tmp_path, capsys, monkeypatch, case
):
    found, refused = case
    pushed = []

    def look_up(_hub, name, *, repo_type):
        assert (name, repo_type) == ("me/mine", "dataset")
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", look_up)
    monkeypatch.setattr(
        huggingface_hub.HfApi, "create_repo", lambda _hub, name, **_: SimpleNamespace(repo_id=name)
    )
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "upload_folder",
        lambda *_, **given: pushed.append(given["repo_id"]) or SimpleNamespace(commit_url="there"),
    )
    given = ("latest", "--store", hostile, "--to", "dataset", "-o", tmp_path / "out", "--push", "me/mine")
    assert status(*given, "--include-harmful") == (2 if refused else 0)
    assert refused in " ".join(capsys.readouterr().err.split())
    assert pushed == ([] if refused else ["me/mine"])
    # Refused before anything is written.
    assert list(tmp_path.iterdir()) == ([] if refused else [tmp_path / "out"])


def test_the_commands_and_the_code_of_the_page_run(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CMRM_STORE", str(finished / "store"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(
        huggingface_hub.HfApi, "create_repo", lambda _hub, name, **_: SimpleNamespace(repo_id=name)
    )
    monkeypatch.setattr(
        huggingface_hub.HfApi, "upload_folder", lambda *_, **__: SimpleNamespace(commit_url="there")
    )
    page = PAGE.read_text(encoding="utf-8")
    commands = re.findall(r"^cmrm (export .+)$", page, re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        assert status(*command.partition("  #")[0].split()[1:]) == 0
    names: dict[str, object] = {}
    for code in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        exec(code, names)
    assert dict(names["shares"])["Image"] == 1.0
    assert names["vectors"].shape[1] == 32


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """A store with a run whose names, questions and answers are hostile, and with rows of each kind in quarantine."""
    folder = tmp_path_factory.mktemp("hostile") / "store"
    store = Store.create(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "find_groups", lambda *_: {})
        made = make_up(store, samples=6, strengths=(1.0,))
    reason = "the text holds '<s> frobnicate \\' it' and \"frobnicate all\" of it"
    place = "image 'a/b.png' is not in /home/me/my-data/img; add it"
    rows = [
        {"stage": stage, "dataset": dataset, "sample_id": sample, "reason": reason, "raw": "frobnicate it"}
        for stage, dataset, sample in (
            ("generate", "vlsafe", "v5"),
            ("generate", "bench", "b5"),
            ("ingest", "bench", "b5"),
            ("ingest", "bench", None),
        )
    ]
    rows.append({"stage": "generate", "dataset": "bench", "sample_id": "b5", "reason": place, "raw": ""})
    # What another program says of its failure quotes without marks.
    rows += [
        {"stage": stage, "dataset": dataset, "sample_id": sample, "reason": f"{said}: cannot frobnicate it", "raw": ""}
        for dataset, sample in (("vlsafe", "v5"), ("bench", "b5"))
        for stage, said in FAILURES.items()
    ]  # fmt: skip
    said = {"model": "llava-tiny", "tokens": 2, "finish_reason": "stop", "prompt_tokens": 2}
    captions = [
        {
            **said,
            "dataset": dataset,
            "sample_id": sample,
            "style": "plain",
            "prompt": "say",
            "caption": sample,
        }
        for dataset, sample in (("vlsafe", "v3"), ("bench", "b3"))
    ]
    texts = [
        {"judge": "guard", "subject": "question", "dataset": dataset, "sample_id": sample, "verdict": "safe",
         "raw": f"guard on {sample}"}
        for dataset, sample in (("bench", "b3"), ("vlsafe", "v3"))
    ]  # fmt: skip
    kept = {"quarantine": rows, "captions": captions, "text_judgements": texts}
    others = [commit_rows(store, kind, found) for kind, found in kept.items()]
    write_record(store, "20260101-000000-abcdef", [*made.keys, *others])
    twice = commit_rows(store, "samples", [*make_samples("bench", 1)])
    write_record(store, "20250101-000000-abcdef", [*made.keys, twice])
    return folder


def write_record(store, run, keys):
    data = {"vlsafe": {"format": "jsonl", "path": "/nowhere.jsonl"}}
    spec = {"model": {"id": "nowhere"}, "datasets": data, "anchors": {"from": {"vlsafe": 0.5}}}
    models = [{"name": "llava-tiny", "label": "llava-tiny"}]
    record = {"status": "finished", "keys": keys, "models": models, "spec": spec}
    store.write_run(run, {**record, "created_at": f"{run[:4]}-01-01T00:00:00+00:00"})


def test_quarantined_rows_are_a_table_whose_reasons_quote_no_harmful_row(hostile, tmp_path):
    folder = export(hostile, tmp_path / "out")
    found = pq.read_table(folder / "quarantine").to_pylist()
    assert len(found) == len(ask(hostile, "FROM quarantine")) == 14
    said = {(row["stage"], row["dataset"], row["sample_id"], row["reason"], row["raw"]) for row in found}
    reason = "the text holds '<s> frobnicate \\' it' and \"frobnicate all\" of it"
    assert said > {
        ("generate", "vlsafe", "v5", "the text holds …", None),
        # What is known to be harmless is told as it is.
        ("generate", "bench", "b5", reason, "frobnicate it"),
        ("ingest", "bench", "b5", "the text holds …", None),
        ("ingest", "bench", None, "the text holds …", None),
        ("generate", "bench", "b5", "image 'a/b.png' is not in img; add it", ""),
        *((stage, "vlsafe", "v5", f"{said}: …", None) for stage, said in FAILURES.items()),
        *((stage, "bench", "b5", f"{said}: cannot frobnicate it", "") for stage, said in FAILURES.items()),
    }
    card = (folder / "README.md").read_text()
    answers = pq.read_table(folder / "answers").num_rows
    assert f"{answers + 5:,} answers were asked for: {answers:,} are here, and 5 questions" in card
    assert "| ingest | bench | the text holds … | 2 |" in card
    whole = export(hostile, tmp_path / "all", "--include-harmful")
    assert pq.read_table(whole / "quarantine")["reason"].to_pylist().count(reason) == 4


def test_captions_and_verdicts_on_texts_are_tables_of_runs_that_have_them(hostile, tmp_path):
    folder = export(hostile, tmp_path / "out")
    columns = ["sample_id", "caption", "withheld"]
    assert pq.read_table(folder / "captions", columns=columns).to_pylist() == [
        {"sample_id": "b3", "caption": "b3", "withheld": False},
        {"sample_id": "v3", "caption": None, "withheld": True},
    ]
    columns = ["judge", "subject", "sample_id", "verdict", "raw"]
    assert pq.read_table(folder / "text_verdicts", columns=columns).to_pylist() == [
        {"judge": "guard", "subject": "question", "sample_id": "b3", "verdict": "safe", "raw": "guard on b3"},
        {"judge": "guard", "subject": "question", "sample_id": "v3", "verdict": "safe", "raw": None},
    ]
    listed = re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", (folder / "README.md").read_text(), re.MULTILINE)
    assert dict(listed) == {
        "answers": "126", "samples": "22", "text_verdicts": "2", "captions": "2", "quarantine": "14"
    }  # fmt: skip


def test_hostile_names_and_texts_are_data_in_the_files_and_text_on_the_card(hostile, tmp_path):
    folder = export(hostile, tmp_path / "out")
    samples = "(SELECT DISTINCT dataset, sample_id, harmful, question FROM samples)"
    rows = ask(hostile, f"FROM responses JOIN {samples} USING (dataset, sample_id)")
    expected = sorted((row["question"], row["answer"]) for row in rows if not row["harmful"])
    found = datasets.load_dataset(str(folder), "answers", split="test", cache_dir=str(tmp_path / "cache"))
    kept = sorted((row["question"], row["answer"]) for row in found if not row["harmful"])
    assert kept == expected
    assert any(EVIL in answer for _, answer in kept)
    assert {row["condition"] for row in found} == {"query", "caption", "image", "blank", "noise"}
    texts = [text for _, text in read_all(folder) if isinstance(text, str)]
    assert not [text for text in texts if "How do I frobnicate" in text or "you frobnicate it" in text]
    card = (folder / "README.md").read_text()
    assert isinstance(yaml.safe_load(card.split("---")[1]), dict)
    assert not re.search(r"(?<!\\)<(script|img)", card)


def test_a_run_whose_rows_do_not_match_leaves_nothing(hostile, tmp_path, capsys):
    given = ("20250101-000000-abcdef", "--store", hostile, "--to", "dataset", "-o", tmp_path / "out")
    assert status(*given) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "responses: 126 rows became 133, so some belong to several samples" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--alpha", "1"], "--alpha is for exports of a model"),
        (["--push", "alone"], "OWNER/NAME"),
    ],
)
def test_a_mistake_costs_a_line_before_anything_is_written(hostile, tmp_path, capsys, options, said):
    assert status("latest", "--store", hostile, "--to", "dataset", "-o", tmp_path / "out", *options) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_states_of_a_run_that_kept_none_are_refused(hostile, tmp_path, capsys):
    store = Store.open(hostile)
    record = store.find_run("20260101-000000-abcdef")
    kept = [key for key in record["keys"] if store.look_up("embed", key) is None]
    write_record(store, "20240101-000000-abcdef", kept)
    given = ("20240101-000000-abcdef", "--store", hostile, "--to", "dataset", "-o", tmp_path / "out")
    assert status(*given, "--states") == 2
    assert "kept no hidden states" in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_answers_is_a_data_set_of_what_it_has(hostile, tmp_path):
    store = Store.open(hostile)
    record = store.find_run("20260101-000000-abcdef")
    answered = {made.key for stage in ("generate", "judge") for made in store.manifests(stage)}
    write_record(store, "20230101-000000-abcdef", [key for key in record["keys"] if key not in answered])
    given = ("20230101-000000-abcdef", "--store", hostile, "--to", "dataset", "-o", tmp_path / "out")
    assert status(*given) == 0
    found = datasets.load_dataset(str(tmp_path / "out"), split="test", cache_dir=str(tmp_path / "cache"))
    assert set(found["dataset"]) == {"vlsafe", "jailbreak", "bench"}
    assert not (tmp_path / "out" / "answers").exists()
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'samples = datasets.load_dataset("PATH OR OWNER/NAME", "samples", split="test")' in card
    assert "5 answers were asked for: 0 are here, and 5 questions" in card
