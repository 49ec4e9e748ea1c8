"""Gemma 3n's four residual streams: all of them together are the state that is read and steered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cmrm.errors import UserError
from cmrm.export.request import ConstantShift, ExportRequest
from cmrm.models.revision import ModelIdentity
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.steering.capture import embed
from cmrm.steering.hooks import steer
from cmrm.steering.intervention import Intervention
from tests.conformance.asking import SHOWN, TEXT
from tests.conformance.loading import Load

HIDDEN, STREAMS = 32, 4


@pytest.fixture
def gemma3n(tiny: Load) -> VisionLanguageModel:
    return tiny("gemma3n")


def answer_logits(vlm: VisionLanguageModel, prompt: Any, **subtracted: Tensor) -> tuple[Tensor, Tensor]:
    """Logits behind a prompt, and the last block's streams there, [streams, hidden], by a plain pass; `last` is taken
    from the latter."""
    seen: list[Tensor] = []

    def act(_block: nn.Module, _args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, 0, -1] -= subtracted.get("last", torch.zeros(STREAMS, HIDDEN))
        seen.append(output[:, 0, -1])
        return output

    handle = vlm.blocks[-1].register_forward_hook(act)
    with torch.inference_mode():
        logits = vlm.model(**render(vlm, [prompt]), use_cache=False).logits[0, -1]
    handle.remove()
    return logits, seen[0]


def test_the_state_is_the_streams_side_by_side(gemma3n: VisionLanguageModel) -> None:
    assert gemma3n.hidden_size == STREAMS * HIDDEN
    _logits, streams = answer_logits(gemma3n, SHOWN[0])
    state = embed(gemma3n, [SHOWN[0]], blocks=[3])[0, 0]
    torch.testing.assert_close(state, streams.flatten())


def test_only_all_streams_take_an_image_out_of_the_logits(gemma3n: VisionLanguageModel) -> None:
    text, of_text = answer_logits(gemma3n, TEXT[0])
    shown, of_image = answer_logits(gemma3n, SHOWN[0])
    delta = of_image - of_text
    moved = (shown - text).norm()
    left = []
    for number in range(STREAMS):
        alone = torch.zeros_like(delta)
        alone[number] = delta[number]
        left.append(float((answer_logits(gemma3n, SHOWN[0], last=alone)[0] - text).norm() / moved))
    assert min(left) > 0.5
    assert float((answer_logits(gemma3n, SHOWN[0], last=delta)[0] - text).norm() / moved) < 1e-4


def test_an_export_is_refused_in_one_line() -> None:
    identity = ModelIdentity(id="m", revision="1", model_type="gemma3n", folder=Path("m"))
    shift = ConstantShift(subtracted=torch.ones(1, STREAMS * HIDDEN), alpha=1.0, blocks=(3,), scope="all")
    with pytest.raises(UserError, match=r"^the state of gemma3n models is several streams") as raised:
        ExportRequest(model=identity, config={}, shift=shift, origin=None, blocks=4)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_steering_subtracts_from_all_streams(gemma3n: VisionLanguageModel) -> None:
    _text, of_text = answer_logits(gemma3n, TEXT[0])
    _shown, of_image = answer_logits(gemma3n, SHOWN[0])
    delta = (of_image - of_text).flatten()[None]
    inputs = render(gemma3n, [SHOWN[0]])
    intervention = Intervention(delta=delta, alpha=1.0, blocks=(3,))
    with (
        torch.inference_mode(),
        steer(gemma3n, intervention, input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]),
    ):
        steered = gemma3n.model(**inputs, use_cache=False).logits[0, -1]
    torch.testing.assert_close(steered, answer_logits(gemma3n, TEXT[0])[0], atol=1e-3, rtol=1e-3)
