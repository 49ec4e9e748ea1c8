"""How a model scales and bounds the logits of its head is found from what it makes, and done alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from cmrm.errors import UserError
from cmrm.models.derived_logits import find_logit_fields
from cmrm.models.head import find_head
from cmrm.models.modules import find_output_layer
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt

PROMPT = Prompt(text="name every colour")
NUMBERS = {"logits_scaling": 8.5, "output_multiplier": 0.35, "final_logit_softcapping": 23.5}
SCALED = [
    (lambda logits: logits, {}),
    (lambda logits: logits / 8.5, {"logit_divisor": "text_config.logits_scaling"}),
    (lambda logits: logits * 0.35, {"logit_factor": "text_config.output_multiplier"}),
    (lambda logits: torch.tanh(logits / 23.5) * 23.5, {"logit_bound": "text_config.final_logit_softcapping"}),
    (
        lambda logits: torch.tanh(logits * 0.35 / 23.5) * 23.5,
        {
            "logit_factor": "text_config.output_multiplier",
            "logit_bound": "text_config.final_logit_softcapping",
        },
    ),
    # No number of the config is the one by which it is divided.
    (lambda logits: logits / 7.3, {}),
]


def change_logits(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]
) -> None:
    for name, number in NUMBERS.items():
        monkeypatch.setattr(vlm.model.config.text_config, name, number, raising=False)
    forward = LlavaForConditionalGeneration.forward

    def changed(self: LlavaForConditionalGeneration, *given: Any, **named: Any) -> Any:
        made = forward(self, *given, **named)
        made.logits = change(made.logits)
        return made

    monkeypatch.setattr(LlavaForConditionalGeneration, "forward", changed)


@pytest.mark.parametrize(("change", "fields"), SCALED)
def test_the_fields_are_those_whose_numbers_make_the_models_logits(
    vlm: VisionLanguageModel,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Tensor], Tensor],
    fields: dict[str, str],
) -> None:
    change_logits(vlm, monkeypatch, change)
    assert find_logit_fields(vlm, PROMPT) == replace(vlm.family, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(("change", "fields"), SCALED[:-1])
def test_the_head_of_such_a_row_makes_the_models_logits(
    vlm: VisionLanguageModel,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Tensor], Tensor],
    fields: dict[str, str],
) -> None:
    change_logits(vlm, monkeypatch, change)
    own = replace(vlm, family=replace(vlm.family, **fields))  # type: ignore[arg-type]
    inputs = render(vlm, [PROMPT])
    with torch.inference_mode():
        hidden = vlm.model.base_model(**inputs).last_hidden_state
        assert torch.equal(find_head(own)(hidden), vlm.model(**inputs).logits)


def test_the_output_layer_may_be_that_of_the_language_model_inside(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlavaForConditionalGeneration, "get_output_embeddings", lambda _model: None)
    with pytest.raises(UserError, match="LlavaForConditionalGeneration names no layer that makes logits"):
        find_output_layer(vlm.model)
    monkeypatch.setattr(
        type(vlm.model.model), "get_output_embeddings", lambda _model: vlm.model.lm_head, raising=False
    )
    assert find_output_layer(vlm.model) is vlm.model.lm_head
