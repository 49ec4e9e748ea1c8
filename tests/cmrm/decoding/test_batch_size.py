"""How many prompts go together follows from what they take and what is free."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cmrm.decoding.batch_size
from cmrm.decoding.batch_size import Budget, count_cache_bytes, measure_budget
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prefix.cache import prefill
from cmrm.prefix.planner import PromptBatch
from cmrm.prompts.conditions import Prompt

Counts = st.integers(1, 1 << 20)


def test_a_token_takes_as_many_bytes_of_the_kv_cache_as_are_counted(
    vlm: VisionLanguageModel, noise_prompts: list[Prompt]
) -> None:
    with torch.inference_mode():
        prefilled = prefill(vlm, PromptBatch(inputs=render(vlm, noise_prompts)))
    taken = sum(keys.nbytes + values.nbytes for keys, values in prefilled.layers)
    assert count_cache_bytes(vlm) * prefilled.visible.numel() == taken


@given(pass_tokens=Counts, cache_tokens=Counts, tokens=Counts, branches=st.integers(1, 200), new=Counts)
def test_a_batch_is_within_the_budget_or_of_one_prompt(
    pass_tokens: int, cache_tokens: int, tokens: int, branches: int, new: int
) -> None:
    budget = Budget(pass_tokens=pass_tokens, cache_tokens=cache_tokens)
    prompts = budget.count_prompts(tokens)
    assert prompts == 1 or prompts * tokens <= pass_tokens
    rows = budget.count_rows(tokens, branches=branches, new_tokens=new)
    assert rows == 1 or rows * (tokens + branches * new) <= cache_tokens
    assert rows == 1 or rows * branches <= cmrm.decoding.batch_size.MOST_BRANCHES


@given(
    cache_tokens=Counts,
    tokens=Counts,
    branches=st.integers(0, 50),
    alone=st.integers(1, 50),
    new=Counts,
    requests=st.integers(1, 4),
)
def test_every_arm_with_slots_of_its_own_is_within_the_budget(
    *, cache_tokens: int, tokens: int, branches: int, alone: int, new: int, requests: int
) -> None:
    budget = Budget(pass_tokens=1, cache_tokens=cache_tokens)
    rows = budget.count_rows(tokens, branches=branches, new_tokens=new, alone=alone, requests=requests)
    slots = [tokens + branches * new] * (branches > 0) + [tokens + new] * alone
    assert rows == 1 or rows * sum(slots) <= cache_tokens
    assert rows == 1 or rows * (branches + alone) <= cmrm.decoding.batch_size.MOST_BRANCHES


def test_half_the_free_memory_is_half_the_slots(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(free: int) -> int:
        monkeypatch.setattr(cmrm.decoding.batch_size, "measure_free_bytes", lambda _device: free)
        return measure_budget(vlm).count_rows(600, branches=2, new_tokens=100)

    assert count(100_000_000) == 2 * count(50_000_000) > 2
    assert count(0) == 1
