"""`--debug` and CMRM_DEBUG=1 show the traceback behind an error of one line, without secrets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows.cli import main
from flows.debugging import format_traceback

KEY = "sk-canary+/=5d1f"


def fail(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    return capsys.readouterr().err


@pytest.fixture
def spec(tmp_path: Path) -> str:
    (tmp_path / "spec.yaml").write_text("model: [unclosed")
    return str(tmp_path / "spec.yaml")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_option_shows_the_traceback_wherever_it_is_given_and_the_line_comes_last(
    spec: str, capsys: pytest.CaptureFixture[str], place: int
) -> None:
    usual = fail(["run", spec], capsys)
    assert "Traceback" not in usual
    arguments = ["run", spec]
    arguments.insert(place, "--debug")
    shown = fail(arguments, capsys)
    assert shown.endswith(usual)
    # Of the library's own error too, which the line hides.
    assert shown.count("Traceback (most recent call last)") == 2
    assert "yaml.parser.ParserError" in shown
    assert "cmrm.errors.UserError" in shown
    assert "CMRM_DEBUG" not in os.environ


@pytest.mark.parametrize(("value", "count"), [("1", 2), ("true", 2), ("0", 0), ("", 0)])
def test_so_does_the_variable(
    spec: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    value: str,
    count: int,
) -> None:
    monkeypatch.setenv("CMRM_DEBUG", value)
    assert fail(["run", spec], capsys).count("Traceback (most recent call last)") == count


def test_a_traceback_shows_no_secret_and_no_control_character(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", KEY)
    try:
        try:
            raise ConnectionError(f"no entry with {KEY} at https://me:word@host/x\x1b[2J")
        except ConnectionError:
            raise ValueError("it failed") from None
    except ValueError as error:
        shown = format_traceback(error)
    assert "ConnectionError: no entry with [secret] at https://host/x\\x1b[2J" in shown
    assert "ValueError: it failed" in shown
    assert KEY not in shown
    assert "word" not in shown
