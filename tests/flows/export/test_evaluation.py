"""`cmrm export --evaluate` and `--push`: the export is run itself, held against hooks, and uploaded as it stands."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import load_file

from cmrm.errors import UserError
from cmrm.judges.judge import Verdict
from flows.export.sweep import need_strength
from storage.sql.database import connect
from storage.store import Store
from tasks.export.evaluation import Sweep
from tests.flows.export.test_export_command import status

pytestmark = pytest.mark.usefixtures("prefect_server", "without_figures", "without_heartbeat")


@pytest.fixture
def store(finished, tmp_path):
    """A copy of the run's store, for further runs."""
    return shutil.copytree(finished / "store", tmp_path / "store")


def give(store, questions, output):
    """The arguments of an export of the strong arm."""
    return (
        "export", "latest", "--store", store, "--arm", "CMRM@60", "--to", "checkpoint", "-o", output,
        "--canary-prompts", questions, "--device", "cpu",
    )  # fmt: skip


def find_bias(weights, block):
    (name,) = (one for one in weights if one.endswith(f"layers.{block}.mlp.down_proj.bias"))
    return name


def ask(store, query):
    with connect(store) as database:
        return database.execute(query).fetchall()


def test_a_sweep_exports_the_strength_that_its_own_runs_select_and_the_card_has_the_rates_of_all(
    store, questions, tmp_path, capsys, monkeypatch
):
    # Plain answers are judged already, as unsafe; whatever is judged now is safe.
    safe = Verdict(verdict="safe", refused=True, raw="")
    monkeypatch.setattr("cmrm.judges.refusal._judge_one", lambda _answer: safe)
    given = [*give(store, questions, tmp_path / "out")]
    given[given.index("CMRM@60")] = "CMRM"
    assert status(*given, "--blocks", "last", "--sweep", "60,30") == 0
    # The smaller one of two that are equally safe.
    weights = load_file(tmp_path / "out" / "model.safetensors")
    (path,) = (store / "shifts").rglob("*.safetensors")
    measured = load_file(path)
    delta = measured["delta"][measured["blocks"].tolist().index(3)]
    torch.testing.assert_close(weights[find_bias(weights, 3)], -30 * delta, rtol=1e-6, atol=0)
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []
    rows = ask(
        store,
        "SELECT model, intervention, alpha, dataset, sample_id, answer FROM responses WHERE condition = 'image'",
    )
    exported = {row[0] for row in rows if row[0].startswith("out@")}
    assert len(exported) == 3
    hooked = {alpha: {row[3:] for row in rows if row[1:3] == ("CMRM", alpha)} for alpha in (30.0, 60.0)}
    # At the last block every export answers as hooks do at one of the strengths.
    for model in exported:
        answers = {row[3:] for row in rows if row[0] == model}
        assert len(answers) > 10
        assert any(answers <= known for known in hooked.values())
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{len(answers)} of {len(answers)} answers equal those under hooks" in shown
    card = (tmp_path / "out" / "README.md").read_text()
    chosen = Store.open(str(store)).find_run("latest")["models"][0]["name"]
    ((share, count),) = ask(
        store,
        "SELECT avg((verdict = 'correct')::INT), count(*) FROM judgements WHERE judge = 'match'"
        f" AND model = '{chosen}' AND verdict IN ('correct', 'incorrect')",
    )
    front = yaml.safe_load(card.split("---\n")[1])
    rates = {
        one["metrics"][0]["type"]: one["metrics"][0]["value"] for one in front["model-index"][0]["results"]
    }
    assert rates["utility"] == pytest.approx(100 * share, abs=0.01)
    assert rates["unsafe"] == 0
    assert re.search(rf"\| utility \| all harmless \| match \| .* \({count}\) \|", card)
    section = card.partition("## The strength")[2].partition("\n## ")[0]
    points = re.findall(r"^\| (\d+) \| (.*) \|$", section, flags=re.MULTILINE)
    assert [alpha for alpha, _ in points] == ["0", "30", "60"]
    assert [cells.endswith(f"{len(answers)} of {len(answers)}") for _, cells in points] == [False, True, True]
    assert [cells.split(" | ")[1].split()[0] for _, cells in points] == ["100.0", "0.0", "0.0"]
    assert "held-out" in card or "the other half evaluates it" in card
    # The latest run is now that of the export itself, of plain answers; `latest` is the latest that has arms.
    assert status(*give(store, questions, tmp_path / "again"), "--blocks", "last") == 0
    evaluated = Store.open(str(store)).find_run("latest")["run_id"]
    plain = [evaluated if one == "latest" else one for one in give(store, questions, tmp_path / "none")]
    assert status(*plain) == 2
    assert "plain answers alone, as the run of an export" in " ".join(capsys.readouterr().err.split())


def test_a_sweep_whose_bound_no_strength_keeps_names_the_rates():
    none = {"n": 0, "successes": 0}
    points = [
        {"alpha": alpha, "unsafe": {**none, "n": 4, "successes": bad}, "utility": none, "over_refusal": none}
        for alpha, bad in ((0.0, 4), (0.5, 1))
    ]
    curve = {"points": points, "choice": {"alpha": None}}
    sweep = Sweep(source="run", runs={}, equal={}, curve=curve, hooks=curve)
    with pytest.raises(UserError, match=r"α = 0: unsafe 100\.0 %; α = 0\.5: unsafe 25\.0 %.*--alpha"):
        need_strength(sweep)
    assert need_strength(replace(sweep, curve={**curve, "choice": {"alpha": 0.5}})) == 0.5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--evaluate", "none.yaml"], "none.yaml"),
        (["--evaluate", "own", "--arm", "both", "--blocks", "last"], "leave out --blocks"),
        (["--evaluate", "own", "--to", "onnx"], "use --to checkpoint"),
        (["--sweep", "1,2", "--to", "gguf"], "use --to checkpoint"),
        (["--sweep", "1"], "give 2 to 32 different strengths"),
        (["--sweep", "1,-1"], "give 2 to 32 different strengths"),
        (["--sweep", "1,nan"], "give 2 to 32 different strengths"),
        (["--sweep", "1,2", "--alpha", "1"], "--sweep chooses it"),
        (["--sweep", "1,2"], "names another strength"),
        (["--dry-run"], "give --push"),
        (["--push", "no owner"], "--push no owner"),
        (["--push", "alone"], "OWNER/NAME"),
    ],
)
def test_a_wish_that_cannot_be_met_costs_a_line_before_anything_is_written(
    finished, tmp_path, capsys, options, said
):
    given = [*give(finished / "store", tmp_path / "no-questions.txt", tmp_path / "out")]
    for name in {"--arm", "--to"}.intersection(options):
        at = given.index(name)
        del given[at : at + 2]
    assert status(*given, *options) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_a_dry_push_lists_the_files_and_asks_no_hub(finished, questions, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: pytest.fail("the hub was asked"))
    given = give(finished / "store", questions, tmp_path / "out")
    assert status(*given, "--push", "me/steered", "--dry-run") == 0
    listed = capsys.readouterr().out.partition("Would be uploaded to me/steered:")[2]
    names = {line.split()[-1] for line in listed.splitlines() if line.strip()}
    assert names == {path.name for path in (tmp_path / "out").iterdir()}
    assert {"README.md", "canary.json", "model.safetensors", "config.json"} <= names


def test_a_push_uploads_the_folder_to_a_private_repository_and_a_refusal_keeps_the_export(
    finished, questions, tmp_path, capsys, monkeypatch
):
    calls = []

    def create(_hub, name, **options):
        calls.append((name, options["repo_type"], options["private"], options["exist_ok"]))
        return SimpleNamespace(repo_id=name)

    def upload(_hub, *, repo_id, repo_type, folder_path, commit_message, delete_patterns):
        assert delete_patterns == []
        calls.append(
            (repo_id, repo_type, sorted(path.name for path in folder_path.iterdir()), commit_message)
        )
        raise HfHubHTTPError("403 Forbidden\nnot yours", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    output = tmp_path / "out"
    assert status(*give(finished / "store", questions, output), "--push", "me/steered") == 2
    assert calls[0] == ("me/steered", "model", True, True)
    assert calls[1][:3] == ("me/steered", "model", sorted(path.name for path in output.iterdir()))
    said = " ".join(capsys.readouterr().err.split())
    assert "403 Forbidden" in said
    assert "hf upload me/steered" in said
