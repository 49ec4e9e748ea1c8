"""`cmrm doctor` on a sound model, on one whose hook is broken, and on mistakes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoProcessor, Qwen2VLVideoProcessor

from cmrm.doctor import CHECKS
from cmrm.steering.hooks import _SteerBlock
from flows.cli import main
from tasks.core.models import forget_models
from tests.conformance.builders import BUILDERS
from tests.gguf_file import make_text_model, write_gguf


@pytest.fixture(autouse=True)
def _forget() -> None:
    forget_models()


def doctor(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", *arguments])
    return int(stopped.value.code or 0)


def test_the_embedded_model_passes_all_checks(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "organism"])
    printed = capsys.readouterr().out
    assert f"All {len(CHECKS)} checks passed" in printed
    assert "FAILED" not in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_a_long_examination_says_beforehand_how_long_it_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmrm.doctor.estimate.estimate_seconds", lambda *_, **__: 660.0)
    monkeypatch.setattr("cmrm.doctor.examine", lambda *_, **__: iter(()))
    main(["doctor", "organism"])
    assert "All checks will take about 11 min on cpu." in capsys.readouterr().out.splitlines()


def test_a_broken_hook_is_found_by_name_and_the_status_is_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    act: Callable[..., Any] = _SteerBlock.__call__
    monkeypatch.setattr(
        _SteerBlock,
        "__call__",
        lambda self, block, args, output: act(self, block, args, output) if output.shape[1] > 1 else None,
    )
    assert doctor("organism") == 1
    lines = capsys.readouterr().out.splitlines()
    failed = [line.split("FAILED")[0].strip() for line in lines if "FAILED" in line]
    assert failed == [
        "proof of steering",
        "every step",
        "reference, every_step",
        "reference, all",
        "reference, incremental",
        "projection",
        "branches",
    ]
    assert "every step, reference, every_step" in lines[-2] + lines[-1]


def test_a_spec_is_checked_model_by_model_and_json_holds_all(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, llava_folder: Path
) -> None:
    spec = tmp_path / "spec.yaml"
    text = make_text_model(AutoConfig.from_pretrained(llava_folder).text_config, seed=1)
    write_gguf(tmp_path / "text.gguf", text, llava_folder)
    spec.write_text(
        f"models:\n  - {{id: organism}}\n  - {{id: {llava_folder}, name: random, dtype: float32, "
        "backbone_weights: {gguf: text.gguf}}\n"
        "datasets: {mine: {format: jsonl, path: mine.jsonl}}\nanchors: {from: {mine: 0.2}}\nimages: {size: 32}\n"
    )
    main(["doctor", str(spec), "--format", "json"])
    found = json.loads(capsys.readouterr().out)
    assert [one["model"].partition("@")[0] for one in found] == ["organism", "random"]
    assert [one["image_backend"] for one in found] == [f"pillow {version('pillow')}"] * 2
    assert all(finding["passed"] for one in found for finding in one["findings"])
    notes = [{note["about"]: note["text"] for note in one["folder"]} for one in found]
    assert [one["weights"] for one in notes] == ["model.safetensors"] * 2
    assert notes[0]["stop tokens"] == "</s> (2)"
    assert notes[1]["backbone weights"].startswith("39 tensors of text.gguf (F32, Q8_0)")


def test_what_may_be_wrong_with_a_folder_is_told_and_fails_no_check(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, llava_folder: Path
) -> None:
    folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    (folder / "chat_template.json").write_text(
        json.dumps({"chat_template": (folder / "chat_template.jinja").read_text().replace("USER", "U")})
    )
    main(["doctor", str(folder), "--dtype", "float32"])
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "folder read padding: <pad> (0); weights: model.safetensors; chat template: chat_template.json;"
        in printed
    )
    assert "chat template WARNED prompts are made with the chat template of chat_template.json" in printed
    assert f"All {len(CHECKS)} checks passed" in printed
    assert printed.endswith("Its folder has 1 warning.")


def test_a_model_is_enough_where_its_type_wants_another_attention(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    main(["doctor", str(BUILDERS["paligemma"](tmp_path))])
    assert f"All {len(CHECKS)} checks passed" in capsys.readouterr().out


def test_a_processor_that_needs_a_package_says_which(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, llava_folder: Path
) -> None:
    # As Qwen2-VL's processor does; torchvision is not in this environment.
    monkeypatch.setattr(AutoProcessor, "from_pretrained", lambda *_, **__: Qwen2VLVideoProcessor())
    assert doctor(str(llava_folder)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "needs the package torchvision, which is not installed: pip install 'cmrm[vision]'" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["organism", "--dtype", "float8"], "model.dtype"),
        (["./nowhere"], "no folder './nowhere'"),
        (["nowhere.yaml"], "no such spec file"),
    ],
)
def test_a_mistake_costs_a_line_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert doctor(*arguments) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.err
