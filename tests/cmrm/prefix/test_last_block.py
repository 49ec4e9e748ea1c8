"""The last block that is read runs to its end at the last tokens alone, and its states are those of a plain pass."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook

from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prefix.planner import Prefixes
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import noise_image
from cmrm.steering.capture import embed
from tests.counted_tokens import counted

START = "in one short sentence, and without any further word, tell me: "
ENDS = ("what is it?", "is it red, or blue, or neither of them?", "why", "who?", "and now?")


def ask(seeds: Sequence[int | None], *, start: str = START) -> list[Prompt]:
    return [
        Prompt(text=start + end, image=None if seed is None else noise_image(size=32, seed=seed))
        for end, seed in zip(ENDS, seeds, strict=True)
    ]


# Texts alone, some that share too little, one image for all, images in common for some, and an own image for each.
BATCHES = {
    "texts": ask([None] * 5),
    "different texts": ask([None] * 5, start=""),
    "one image": ask([1] * 5),
    "two images": ask([1, 2, 1, 2, 1]),
    "own images": ask([1, 2, 3, 4, 5]),
}


def read_plainly(vlm: VisionLanguageModel, prompts: Sequence[Prompt], blocks: Sequence[int]) -> Tensor:
    """One prompt at a time through the whole model, with torch's own hooks: [prompts, blocks, hidden]."""
    states: list[Tensor] = []

    def note(_block: torch.nn.Module, _args: object, output: Tensor) -> None:
        states.append(output[0, -1])

    handles = [vlm.blocks[block].register_forward_hook(note) for block in blocks]
    try:
        with torch.inference_mode():
            for prompt in prompts:
                vlm.model(**render(vlm, [prompt]))
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(states).reshape(len(prompts), len(blocks), -1)


@pytest.mark.parametrize("blocks", [[0], [1, 2], [0, 1, 2, 3]])
@pytest.mark.parametrize("name", BATCHES)
def test_states_are_those_of_a_plain_pass(vlm: VisionLanguageModel, name: str, blocks: list[int]) -> None:
    prompts = BATCHES[name]
    plain = read_plainly(vlm, prompts, blocks)
    for prefixes in (None, Prefixes(vlm)):
        found = embed(vlm, prompts, blocks=blocks, prefixes=prefixes)
        rounding = 16 * torch.finfo(torch.float32).eps * float(plain.abs().max())
        torch.testing.assert_close(found, plain, atol=rounding, rtol=1e-5)


@pytest.mark.parametrize("name", BATCHES)
def test_the_last_block_runs_to_its_end_at_one_token_a_prompt_and_none_above_it(
    vlm: VisionLanguageModel, name: str
) -> None:
    prefixes, prompts = Prefixes(vlm), BATCHES[name]
    # What the prompts share is read in a pass of its own, through all blocks.
    embed(vlm, prompts, blocks=[2], prefixes=prefixes)
    with counted(vlm, 1) as below, counted(vlm, 2) as last, counted(vlm, 3) as above:
        embed(vlm, prompts, blocks=[0, 2], prefixes=None if name == "two images" else prefixes)
    assert sum(below) > 5 * len(prompts)
    # In rows of several prompts, shorter ones are filled up.
    assert len(prompts) <= sum(last) < 2 * len(prompts)
    assert above == []


def test_texts_of_different_lengths_are_read_without_padding(vlm: VisionLanguageModel) -> None:
    prompts = BATCHES["different texts"]
    tokens = int(render(vlm, prompts)["attention_mask"].sum())
    with counted(vlm, 0) as packed:
        embed(vlm, prompts, blocks=[3], prefixes=Prefixes(vlm))
    with counted(vlm, 0) as padded:
        embed(vlm, prompts, blocks=[3])
    # Rows are equally long, to a few tokens.
    assert tokens <= sum(packed) < tokens + len(prompts) < sum(padded)


def test_a_hook_of_a_caller_sees_all_tokens(vlm: VisionLanguageModel) -> None:
    prompts, seen = BATCHES["own images"], list[int]()
    inputs = render(vlm, prompts)
    without = embed(vlm, prompts, blocks=[3])
    handle = vlm.blocks[3].mlp.register_forward_hook(lambda _m, _a, output: seen.append(output.shape[1]))
    try:
        found = embed(vlm, prompts, blocks=[3])
    finally:
        handle.remove()
    assert seen == [inputs["input_ids"].shape[1]]
    torch.testing.assert_close(found, without, atol=1e-4, rtol=1e-4)


def center(hidden: Tensor) -> Tensor:
    """What needs all tokens of a prompt."""
    return hidden - hidden.mean(dim=1, keepdim=True)


def test_a_hook_on_all_modules_sees_all_tokens(vlm: VisionLanguageModel) -> None:
    prompts, last = BATCHES["own images"][:1], vlm.blocks[3]
    handle = register_module_forward_hook(
        lambda module, _a, output: center(output) if module is last else None
    )
    try:
        found, plain = embed(vlm, prompts, blocks=[3]), read_plainly(vlm, prompts, [3])
    finally:
        handle.remove()
    torch.testing.assert_close(found, plain, atol=1e-4, rtol=1e-4)


def test_a_function_in_place_of_a_block_sees_all_tokens(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, run = BATCHES["own images"][:1], vlm.blocks[3].forward

    def own(hidden_states: Tensor, **options: object) -> Tensor:
        return center(run(hidden_states, **options))

    monkeypatch.setitem(vars(vlm.blocks[3]), "forward", own)
    found, plain = embed(vlm, prompts, blocks=[3]), read_plainly(vlm, prompts, [3])
    torch.testing.assert_close(found, plain, atol=1e-4, rtol=1e-4)


def test_blocks_are_as_they_were_when_a_pass_fails(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = BATCHES["own images"]
    wanted = embed(vlm, prompts, blocks=[2])
    # transformers leaves hooks of its own on the model that tests share.
    hooks = [dict(block._forward_hooks) for block in vlm.blocks]

    def fail(_hidden: Tensor) -> Tensor:
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(vlm.blocks[2].mlp, "forward", fail)
        with pytest.raises(RuntimeError, match="no memory"):
            embed(vlm, prompts, blocks=[2])
    assert not any("forward" in vars(block) for block in vlm.blocks)
    assert [dict(block._forward_hooks) for block in vlm.blocks] == hooks
    assert torch.equal(embed(vlm, prompts, blocks=[2]), wanted)


@pytest.mark.parametrize("name", ["different texts", "one image"])
def test_a_prompt_whose_numbers_overflow_leaves_those_in_its_row_alone(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    prompts, prefixes = BATCHES[name], Prefixes(vlm)
    ids = [set(render(vlm, [prompt])["input_ids"][0].tolist()) for prompt in prompts]
    own = min(ids[1] - ids[0] - ids[2] - ids[3] - ids[4])
    plain = read_plainly(vlm, prompts, [0, 3])
    weights = vlm.model.get_input_embeddings().weight
    spoiled = weights.detach().clone()
    spoiled[own] = torch.nan
    monkeypatch.setattr(weights, "data", spoiled)
    found = embed(vlm, prompts, blocks=[0, 3], prefixes=prefixes)
    assert found.isfinite().flatten(1).all(dim=1).tolist() == [True, False, True, True, True]
    kept = [0, 2, 3, 4]
    rounding = 16 * torch.finfo(torch.float32).eps * float(plain.abs().max())
    torch.testing.assert_close(found[kept], plain[kept], atol=rounding, rtol=1e-5)
