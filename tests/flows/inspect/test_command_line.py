"""Inspect's own command line finds cmrm's tasks and scorers, and the commands of the page run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import invalidate_caches
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from inspect_ai._cli.main import inspect as command_line
from inspect_ai.log import EvalLog, list_eval_logs, read_eval_log

from tests.flows.inspect import echo_model
from tests.flows.inspect.answering import evaluate, read_rates

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "inspect-tasks.md"
BLOCK = re.compile(r"^```(sh|json|python)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def install(folder: Path) -> Path:
    """Make what pip makes of cmrm, of a package with a format, and of one with a model: their entry points."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    packages = {
        "cmrm_itself": [("inspect_ai", project["entry-points"]["inspect_ai"])],
        "theirs": [
            ("inspect_ai", {"echo": echo_model.__name__}),
            ("cmrm.formats", {"theirs": "cmrm.datasets.formats.jsonl:FORMAT"}),
        ],
    }
    for name, groups in packages.items():
        made = folder / f"{name}-1.0.dist-info"
        made.mkdir(parents=True)
        (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [
            line
            for group, entries in groups
            for line in (f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()))
        ]
        (made / "entry_points.txt").write_text("\n".join([*lines, ""]))
    return folder


def read_logs(folder: Path) -> list[EvalLog]:
    """The logs of a folder, the latest first."""
    return [read_eval_log(info) for info in list_eval_logs(str(folder))]


def test_a_process_of_inspect_finds_the_tasks_and_those_of_another_packages_formats(own):
    site = install(own / "site")
    arguments = "-T path=mine.jsonl -T condition=query -T judge=refusal,match --model echo/it --display plain"
    done = subprocess.run(
        [sys.executable, "-m", "inspect_ai", "eval", "cmrm/theirs", *arguments.split()],
        cwd=own,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{site}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (log,) = read_logs(own / "logs")
    assert (log.status, log.eval.task, log.eval.model) == ("success", "cmrm/theirs", "echo/it")
    assert log.eval.metadata is not None
    assert log.eval.metadata["cmrm"]["format"] == "theirs"
    rates = read_rates(log)
    # Of four harmful questions, whose images nobody asks for, one is refused.
    assert (rates["refusal"]["unsafe"], rates["refusal"]["over_refusal"]) == (0.75, 0)
    assert rates["match"]["utility"] == 0
    # As a run decodes.
    assert (log.plan.config.temperature, log.plan.config.max_tokens) == (0, None)


def run(line: str, *, model: str = "echo/it") -> None:
    """Run a command line of Inspect in this process, with a model in place of the embedded one; globs are expanded."""
    words = [
        word
        for given in shlex.split(line)
        for word in (map(str, Path().glob(given)) if "*" in given else [given])
    ]
    words = [model if word == "cmrm/organism" else word for word in words]
    result = CliRunner().invoke(command_line, [*words[1:], "--display", "none"], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_the_commands_and_the_code_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(install(tmp_path / "site")))
    invalidate_caches()
    names: dict[str, Any] = {}
    commands = []
    for language, name, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if name:
            (tmp_path / name).write_text(text)
        elif language == "python":
            exec(compile(text, PAGE.name, "exec"), names)
        else:
            lines = [line for line in text.splitlines() if line.startswith("inspect ")]
            commands += lines
            for line in lines:
                run(line)
    assert len(commands) == 3
    logs = {log.eval.task: log for log in read_logs(tmp_path / "logs")}
    assert logs.keys() == {"cmrm/vlsafe", "cmrm/jsonl"}
    assert len(logs["cmrm/vlsafe"].eval.dataset.sample_ids or ()) == 20
    assert read_rates(logs["cmrm/vlsafe"]).keys() == {"refusal"}
    mine = read_rates(logs["cmrm/jsonl"])
    assert mine["refusal"]["unsafe"] == mine["refusal"]["unsafe (rints)"] == 0
    assert mine["match"]["utility"] == mine["match1"]["utility"] == 1
    assert (logs["cmrm/jsonl"].eval.metadata or {})["cmrm"]["reasons"] == {"empty question": 1}
    own = evaluate(names["task"], tmp_path / "own", model="echo/it")
    assert read_rates(own).keys() == {"judge", "judge1"}
