"""`cmrm export` tells formats of runs from those of models: each has options of its own."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from flows import run_formats
from flows.cli import main
from flows.commands import export
from flows.run_formats import RunFormat

ASKED = []


def write(asked, say):
    """A format of a run that keeps what it is asked for."""
    ASKED.append(asked)
    say("Written \x1b[2J.")


@pytest.fixture
def formats(monkeypatch):
    """Two formats of runs in place of the product's: one takes --images and --push, one neither."""
    ASKED.clear()
    made = MappingProxyType(
        {
            "plain": RunFormat(summary="its rows", target=f"{__name__}:write"),
            "rich": RunFormat(
                summary="its rows with images",
                target=f"{__name__}:write",
                options=frozenset({"images", "push"}),
            ),
        }
    )
    monkeypatch.setattr(run_formats, "RUN_FORMATS", made)
    monkeypatch.setattr(export, "RUN_FORMATS", made)
    monkeypatch.setattr(run_formats.RunFormat, "load", lambda _: write)


def status(*arguments) -> int:
    try:
        main(["export", *map(str, arguments)])
    except SystemExit as ended:
        return int(ended.code)
    return 0


def test_a_format_of_runs_is_asked_with_the_options_that_are_its_own(formats, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CMRM_WORKERS", "2")
    given = ("latest", "--to", "rich", "-o", tmp_path / "out", "--store", "s3://bucket/store")
    assert status(*given, "--images", "none", "--push", "me/mine", "--dry-run") == 0
    (asked,) = ASKED
    assert (asked.run, asked.store, asked.output) == ("latest", "s3://bucket/store", tmp_path / "out")
    assert (asked.options.images, asked.push, asked.dry_run) == ("none", "me/mine", True)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert str(tmp_path / "out") in shown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--to", "rich", "--alpha", "1"], "--alpha is for exports of a model; --to rich exports a run"),
        (["--to", "rich", "--dtype", "float16"], "--dtype is for exports of a model"),
        (["--to", "rich", "--canary-prompts", "x"], "--canary-prompts is for exports of a model"),
        (["--to", "plain", "--images", "none"], "--images: --to plain has no such option; it has none of its own"),
        (["--to", "plain", "--push", "me/mine"], "--push: --to plain has no such option"),
        (["--to", "checkpoint", "--images", "none"], "--images is for exports of a run (--to rich); --to checkpoint"),
        (["--to", "elsewhere"], "known export formats: checkpoint, "),
        (["--to", "elsewhere"], ", plain, rich."),
    ],
)  # fmt: skip
def test_a_mistake_costs_a_line_that_names_it_and_status_two(formats, tmp_path, capsys, options, said):
    assert status("latest", *options, "-o", tmp_path / "out") == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert said in shown
    assert "Traceback" not in shown
    assert ASKED == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_not_written_to(formats, tmp_path, capsys):
    (tmp_path / "mine").write_text("mine")
    assert status("latest", "--to", "plain", "-o", tmp_path) == 2
    assert "is there already" in " ".join(capsys.readouterr().err.split())
    assert ASKED == []


def test_a_file_of_delta_is_no_run(formats, tmp_path, capsys):
    assert status("a.safetensors", "--to", "plain", "-o", tmp_path / "out") == 2
    assert "exports a finished run and a.safetensors is a file" in " ".join(capsys.readouterr().err.split())


def test_the_help_says_which_formats_are_of_runs(capsys):
    for name, one in run_formats.RUN_FORMATS.items():
        assert f"{name} ({one.summary})" in export.FORMATS_HELP
    assert status("--help") == 0
    assert "--images" in capsys.readouterr().out
