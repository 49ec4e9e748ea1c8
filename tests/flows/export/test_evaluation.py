"""`cmrm export --evaluate` and `--push`: the export is run itself, held against hooks, and uploaded as it stands."""

from __future__ import annotations

import re
import shutil
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from storage.sql.database import connect
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


def test_an_export_of_the_last_block_answers_as_hooks_do_and_the_card_has_the_rates(
    store, questions, tmp_path, capsys
):
    done = status(*give(store, questions, tmp_path / "out"), "--blocks", "last", "--evaluate", "own")
    assert done == 0
    with connect(store) as database:
        rows = database.execute(
            "SELECT model, intervention, alpha, dataset, sample_id, answer FROM responses WHERE condition = 'image'"
        ).fetchall()
    # The arm at its own blocks has the same name in the run before.
    answers = {(row[0].partition("@")[0], *row[1:5]): row[5] for row in rows if row[0].startswith("out")}
    hooked = {row[3:5]: {one[5] for one in rows if one[1:5] == ("CMRM", 60.0, *row[3:5])} for row in rows}
    assert len(answers) > 10
    assert all(answer in hooked[key[3:5]] for key, answer in answers.items())
    shown = capsys.readouterr().out
    assert f"{len(answers)} of {len(answers)} answers equal those under hooks" in shown
    card = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    with connect(store) as database:
        (share,) = database.execute(
            "SELECT avg((verdict = 'correct')::INT) FROM judgements WHERE model LIKE 'out@%' AND judge = 'match'"
            " AND verdict IN ('correct', 'incorrect')"
        ).fetchone()
    rates = {
        one["metrics"][0]["type"]: one["metrics"][0]["value"] for one in front["model-index"][0]["results"]
    }
    assert rates["utility"] == pytest.approx(100 * share, abs=0.01)
    assert re.search(r"\| utility \| all harmless \| match \| .* \(\d+\) \|", card)
    assert all(len(line) <= 80 for line in shown.splitlines() if not line.startswith("Exported"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--evaluate", "none.yaml"], "none.yaml"),
        (["--evaluate", "own", "--arm", "both", "--blocks", "last"], "leave out --blocks"),
        (["--dry-run"], "give --push"),
        (["--push", "no owner"], "--push no owner"),
        (["--push", "alone"], "OWNER/NAME"),
    ],
)
def test_a_wish_that_cannot_be_met_costs_a_line_before_anything_is_written(
    finished, tmp_path, capsys, options, said
):
    given = [*give(finished / "store", tmp_path / "no-questions.txt", tmp_path / "out")]
    if "--arm" in options:
        del given[4:6]
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
