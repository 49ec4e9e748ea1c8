"""NaN or inf during decoding give no answer but a fault, with the step and the block where they began."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from cmrm.decoding.api import generate
from cmrm.decoding.nonfinite import Fault
from cmrm.decoding.requests import Answer
from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prompts.conditions import Prompt
from cmrm.steering.intervention import Intervention

NAN, INF = float("nan"), float("inf")
Prompts = Sequence[Prompt]


@pytest.fixture
def broken(llava_folder: Path) -> VisionLanguageModel:
    """A copy of the random LLaVA, to be broken."""
    return load_model(resolve_model(str(llava_folder)), dtype="float32", device="cpu")


def answer(
    vlm: VisionLanguageModel, prompts: Prompts, intervention: Intervention | None = None
) -> tuple[Answer, ...]:
    return generate(vlm, prompts, max_new_tokens=8, intervention=intervention).answers


def faults(answers: Sequence[Answer]) -> list[Fault | None]:
    return [one.fault for one in answers]


def spoil_token(vlm: VisionLanguageModel, token: int) -> None:
    """From now on the model breaks wherever it reads this token."""
    vlm.model.get_input_embeddings().weight.data[token] = NAN


def tokens(vlm: VisionLanguageModel, text: str) -> list[int]:
    return list(vlm.processor.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_only_the_row_that_holds_what_the_model_breaks_on_has_a_fault(
    broken: VisionLanguageModel, noise_prompts: Prompts
) -> None:
    prompts = [Prompt(text="Zoo?"), *noise_prompts, Prompt(text="a much longer question with a Z in it?")]
    plain = answer(broken, prompts)
    spoil_token(broken, tokens(broken, "Z")[0])
    found = answer(broken, prompts)
    at_the_prompt = Fault(step=0, block=0)
    assert faults(found) == [at_the_prompt, None, None, None, at_the_prompt]
    assert found[1:-1] == plain[1:-1]
    assert found[0].text == found[-1].text == ""


@pytest.mark.parametrize("block", range(4))
def test_the_first_block_that_breaks_is_named(
    broken: VisionLanguageModel, noise_prompts: Prompts, block: int
) -> None:
    broken.blocks[block].mlp.down_proj.weight.data[3, 5] = NAN  # type: ignore[union-attr] # a Llama's block
    assert faults(answer(broken, noise_prompts)) == [Fault(step=0, block=block)] * 3


def test_a_token_that_breaks_the_model_once_it_is_generated_is_counted(
    broken: VisionLanguageModel, noise_prompts: Prompts
) -> None:
    written = [tokens(broken, one.text) for one in answer(broken, noise_prompts)]
    asked = {token for one in noise_prompts for token in tokens(broken, f"USER: {one.text} ASSISTANT:")}
    step, token = next(
        (place, one) for place, one in enumerate(written[0][:-1]) if one not in {*asked, *written[0][:place]}
    )
    spoil_token(broken, token)
    expected = [Fault(step=row.index(token) + 1, block=0) if token in row[:-1] else None for row in written]
    assert expected[0] == Fault(step=step + 1, block=0)
    assert faults(answer(broken, noise_prompts)) == expected


@pytest.mark.parametrize("value", [NAN, INF])
def test_nan_or_inf_in_the_logits_alone_names_no_block(
    broken: VisionLanguageModel, noise_prompts: Prompts, value: float
) -> None:
    broken.model.get_output_embeddings().weight.data[7] = value
    assert faults(answer(broken, noise_prompts)) == [Fault(step=0, block=None)] * 3


def test_what_an_intervention_breaks_is_found_under_the_intervention(
    broken: VisionLanguageModel, noise_prompts: Prompts
) -> None:
    plain = answer(broken, noise_prompts)
    delta = torch.zeros(3, 2, broken.hidden_size)
    delta[1, 1, 4] = 3e38
    strong = Intervention(delta=delta, alpha=2.0, blocks=(1, 2))
    found = answer(broken, noise_prompts, strong)
    assert faults(found) == [None, Fault(step=0, block=2), None]
    assert (found[0], found[2]) == (plain[0], plain[2])


def test_suppressed_tokens_are_no_fault(broken: VisionLanguageModel, noise_prompts: Prompts) -> None:
    written = [tokens(broken, one.text)[0] for one in answer(broken, noise_prompts)]
    broken.model.generation_config.suppress_tokens = sorted(set(written))
    found = answer(broken, noise_prompts)
    assert faults(found) == [None] * 3
    assert [tokens(broken, one.text)[0] for one in found] != written


def test_what_happens_to_a_row_after_its_answer_has_ended_is_no_fault(broken: VisionLanguageModel) -> None:
    # Of one length, so that padding stands after the shorter answer alone.
    prompts = [Prompt(text="what is it?"), Prompt(text="who was it?")]
    written = [tokens(broken, one.text) for one in answer(broken, prompts)]
    end = next(token for token in written[0] if token not in written[1])
    broken.model.generation_config.eos_token_id = end
    spoil_token(broken, broken.processor.tokenizer.pad_token_id)
    found = answer(broken, prompts)
    assert found[0].tokens < found[1].tokens
    assert faults(found) == [None, None]
