"""What the doctor says beforehand of the time that its checks take follows from one prompt and one step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from cmrm.doctor import estimate, run_checks
from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from tests.conftest import build_llava

# Most of a prompt are image tokens, as in real models.
SIDE, PATCH = 196, 14


def test_the_checks_come_to_as_many_prompts_and_steps_as_the_estimate_counts(tmp_path: Path) -> None:
    folder = build_llava(tmp_path / "model", image_size=SIDE, patch_size=PATCH)
    vlm = load_model(resolve_model(str(folder)), dtype="float32", device="cpu")
    tokens, steps = list[int](), list[int]()

    def count(_module: nn.Module, _arguments: Any, given: dict[str, Any]) -> None:
        shown = given.get("inputs_embeds")
        rows, columns = (given["input_ids"] if shown is None else shown).shape[:2]
        (steps if columns == 1 else tokens).append(rows * columns)

    handle = vlm.decoder.register_forward_pre_hook(count, with_kwargs=True)
    assert all(one.passed for one in run_checks(vlm, image_size=32))
    handle.remove()
    # Text prompts count for little, and the image tokens of one prompt stand for all of it.
    prompts = sum(tokens) / ((SIDE // PATCH) ** 2 + 30)
    assert prompts == pytest.approx(estimate.PROMPTS, rel=0.2)
    assert len(steps) == pytest.approx(estimate.STEPS, rel=0.2)


def test_the_estimate_adds_up_prompts_and_steps(vlm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {1: 2.0, 1 + estimate.TIMED: 2.0 + estimate.TIMED * 0.5}
    monkeypatch.setattr(estimate, "_generate", lambda _vlm, _inputs, tokens: taken[tokens])
    expected = estimate.PROMPTS * 2.0 + estimate.STEPS * 0.5
    assert estimate.estimate_seconds(vlm, image_size=32) == pytest.approx(expected)
