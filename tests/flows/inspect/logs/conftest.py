"""A finished run with conditions, arms, hostile text and a sample without an answer, and its Inspect logs."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner
from inspect_ai._cli.main import inspect
from inspect_ai.log import EvalLog, list_eval_logs, read_eval_log

from flows.cli import main
from tests.flows.shared_runs import run_plainly

HOSTILE = "<script>document.title='pwned'</script> | =1+1 \u202e what is it?"
REFUSED = "what does </s> mean?"
ARMS = [
    {"name": "CMRM", "alpha": 1.0},
    {"kind": "prompt", "name": "asked", "template": "please, {question}"},
    {
        "kind": "ecso",
        "name": "ECSO",
        "judge": "{question} {answer}?",
        "caption": "see? {question}",
        "final": "{caption} {question}",
    },
]


@pytest.fixture(scope="session")
def finished(llava_folder, tmp_path_factory, write_short_spec) -> Path:
    """The folder of a run: harmful and harmless questions, one hostile and one that the model cannot be given."""
    folder = tmp_path_factory.mktemp("finished")
    spec = write_short_spec(
        folder / "data",
        llava_folder,
        interventions=ARMS,
        conditions=["query", "image", "blank"],
        judges=["refusal", "match"],
        target_states=[],
        anchors={"from": {"vlsafe": 0.4}, "seed": 1},
        shard_size=5,
    )
    rows = [
        {"id": "evil/../1", "question": HOSTILE, "image": "1.png", "reference": "red", "category": "</td>"},
        {"id": "two", "question": "which two?", "image": "0.png", "reference": '["red", "blue"]'},
        {"id": "refused", "question": REFUSED, "image": "2.png", "reference": "red"},
    ]  # fmt: skip
    with (folder / "data" / "own.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    run_plainly(spec, folder / "store")
    return folder


@pytest.fixture(scope="session")
def exported(finished, tmp_path_factory) -> Path:
    """The folder of the run's logs."""
    out = tmp_path_factory.mktemp("exported") / "logs"
    main(["export", "latest", "--to", "inspect", "--store", str(finished / "store"), "-o", str(out)])
    return out


@pytest.fixture(scope="session")
def logs(exported) -> Mapping[tuple[str, str], EvalLog]:
    """The logs by data set and arm, with images in their places."""
    read = [read_eval_log(info, resolve_attachments=True) for info in list_eval_logs(str(exported))]
    return {(log.eval.dataset.name or "", log.eval.task_args["arm"]): log for log in read}


@pytest.fixture(scope="session")
def site(finished, tmp_path_factory) -> Path:
    """The static site of the run's logs, made by the commands of the page; `logs` and `plain` are beside it."""
    folder = tmp_path_factory.mktemp("page")
    page = (Path(__file__).parents[4] / "docs" / "inspect-logs.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL)
    commands = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CMRM_STORE", str(finished / "store"))
        for program, *arguments in commands:
            if program == "cmrm":
                main(arguments)
            elif arguments[:2] == ["view", "bundle"]:
                done = CliRunner().invoke(inspect, arguments, catch_exceptions=False)
                assert done.exit_code == 0, done.output
            else:
                # Installing, and the viewer as a server of its own.
                assert (program, arguments[0]) in {("pip", "install"), ("inspect", "view")}
    return folder / "site"
