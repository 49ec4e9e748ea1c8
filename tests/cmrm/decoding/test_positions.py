"""States at the image's tokens and at the first answer token: what is shared, what is fed, what is steered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cmrm.decoding import first_answer
from cmrm.decoding.first_answer import embed_first_answer
from cmrm.decoding.positions import PositionReader
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prefix.planner import Prefixes
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import noise_image
from cmrm.steering.image_states import MOST_KEPT, ImageStates
from cmrm.steering.intervention import Intervention
from cmrm.steering.settings import POSITIONS, Position, Scope

BLOCKS = range(4)
STEERED = 1
QUESTIONS = ("what is it?", "name every colour, one after the other", "hi")


def show(seeds: Sequence[int]) -> list[Prompt]:
    return [
        Prompt(text=text, image=noise_image(size=32, seed=seed))
        for text, seed in zip(QUESTIONS, seeds, strict=True)
    ]


@contextmanager
def count_tower(vlm: VisionLanguageModel) -> Iterator[list[int]]:
    """Record how many images each pass of the vision tower was given."""
    seen: list[int] = []
    tower = vlm.model.base_model.vision_tower
    handle = tower.register_forward_pre_hook(
        lambda _module, args, kwargs: seen.append(len(args[0] if args else kwargs["pixel_values"])),
        with_kwargs=True,
    )
    try:
        yield seen
    finally:
        handle.remove()


def read_alone(vlm: VisionLanguageModel, prompt: Prompt, change: Callable[[Tensor, int], Tensor]) -> Tensor:
    """All positions of one prompt by transformers' `generate`, block `STEERED` changed: [positions, blocks, d].

    `change` is given the block's output and the number of the pass.
    """
    inputs, seen = render(vlm, [prompt]), list[Tensor]()

    def keep(number: int) -> Callable[..., Any]:
        def hook(_block: Any, _args: Any, output: Tensor) -> Tensor:
            made = change(output, len(seen) // len(BLOCKS)) if number == STEERED else output
            seen.append(made[0].clone())
            return made

        return hook

    handles = [vlm.blocks[number].register_forward_hook(keep(number)) for number in BLOCKS]
    with torch.inference_mode():
        vlm.model.generate(**inputs, max_new_tokens=2, do_sample=False, eos_token_id=10**6)
    for handle in handles:
        handle.remove()
    whole, first = torch.stack(seen[:4]), torch.stack(seen[4:])
    own = inputs["input_ids"][0] == vlm.image_token_id
    return torch.stack([whole[:, -1], whole[:, own][:, -1], whole[:, own].mean(dim=1), first[:, 0]])


@pytest.mark.parametrize("scope", ["prefill", "every_step", "all", "every_position"])
@pytest.mark.parametrize("together", [True, False])
def test_under_an_intervention_states_are_those_after_it(
    vlm: VisionLanguageModel, scope: Scope, *, together: bool
) -> None:
    delta = torch.randn(1, vlm.hidden_size, generator=torch.Generator().manual_seed(0))
    prompts = show((0, 0, 0) if together else (0, 1, 2))
    # The image's tokens are at the same places in all prompts, which begin alike.
    places = (render(vlm, prompts[:1])["input_ids"][0] == vlm.image_token_id).nonzero().flatten()

    def change(output: Tensor, number: int) -> Tensor:
        moved = output.clone()
        if number > 0:
            return moved if scope == "prefill" else moved - 0.5 * delta
        if scope == "every_position":
            return moved - 0.5 * delta
        if scope == "all":
            text = torch.ones(output.shape[1], dtype=torch.bool)
            text[places] = False
            moved[:, text] -= 0.5 * delta
            return moved
        moved[:, -1] -= 0.5 * delta[0]
        return moved

    intervention = Intervention(delta=delta, alpha=0.5, blocks=(STEERED,), scope=scope)
    reader = PositionReader(vlm, blocks=BLOCKS, positions=POSITIONS)
    found = reader.read_steered(prompts, intervention)
    expected = torch.stack([read_alone(vlm, prompt, change) for prompt in prompts])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    plain = reader.read(prompts)
    moved = (found - plain).abs().amax(dim=(0, 2, 3)) > 1e-3
    # The text before the image is text, too.
    before = scope in ("all", "every_position")
    assert moved.tolist() == [True, before, before, True]


def test_each_image_of_a_batch_is_read_once_and_kept_for_the_next(vlm: VisionLanguageModel) -> None:
    states = ImageStates(vlm, blocks=BLOCKS, positions=("mean_image", "last_image"))
    with count_tower(vlm) as seen:
        first = states.read(show((0, 1, 0)))
        assert seen == [2]
        torch.testing.assert_close(states.read(show((0, 0, 0)))[1], first[0], atol=0, rtol=0)
        assert seen == [2]
        # Nothing is saved where each prompt has an image of its own.
        torch.testing.assert_close(states.read(show((2, 3, 4))), states.read(show((2, 3, 4))))
        assert seen == [2, 3, 3]
        states.forget()
        torch.testing.assert_close(states.read(show((0, 1, 0))), first)
        assert seen == [2, 3, 3, 2]
    assert torch.equal(first[0], first[2])
    assert not torch.allclose(first[0], first[1], atol=1e-3)


def test_what_a_reader_keeps_for_later_batches_is_evicted_where_it_is_told_to(
    vlm: VisionLanguageModel,
) -> None:
    reader = PositionReader(vlm, blocks=BLOCKS, positions=POSITIONS, prefixes=Prefixes(vlm))
    passes = []
    for forgets in (False, False, True):
        if forgets:
            reader.forget()
        with count_tower(vlm) as seen:
            reader.read(show((0, 0, 0)))
        passes.append(seen)
    # The image's states, and the prefix of the prompts.
    assert passes == [[1, 1], [], [1, 1]]


def test_the_images_that_were_not_used_for_longest_are_evicted(vlm: VisionLanguageModel) -> None:
    states = ImageStates(vlm, blocks=BLOCKS, positions=("last_image",))
    with count_tower(vlm) as seen:
        for seed in (*range(MOST_KEPT), 0, MOST_KEPT, 0, 1):
            states.read(show((seed, seed, seed)))
    assert len(seen) == MOST_KEPT + 2


def test_where_an_image_may_see_the_question_prompts_are_read_whole(vlm: VisionLanguageModel) -> None:
    untold = replace(vlm, family=replace(vlm.family, shares="nothing"))
    with count_tower(vlm) as seen:
        ImageStates(untold, blocks=BLOCKS, positions=("last_image",)).read(show((0, 0, 0)))
    assert seen == [3]


def test_a_prompt_without_an_image_has_no_state_there(vlm: VisionLanguageModel) -> None:
    states = ImageStates(vlm, blocks=BLOCKS, positions=("last_image",))
    shown = show((0, 1, 2))
    for wrong in (Prompt(text="hi"), replace(shown[0], control="filler")):
        with pytest.raises(ValueError, match="prompt 1 shows no image"):
            states.read([shown[0], wrong])
    with pytest.raises(ValueError, match="no image token"):
        states.read_whole(render(vlm, [Prompt(text="hi")]))
    with pytest.raises(ValueError, match="first_answer is no position"):
        ImageStates(vlm, blocks=BLOCKS, positions=("first_answer",))


def test_the_mean_is_added_up_in_single_precision_and_passes_over_padding(vlm: VisionLanguageModel) -> None:
    from cmrm.steering.image_states import make_pick

    hidden = torch.randn(2, 600, 8, generator=torch.Generator().manual_seed(1)).bfloat16() + 100
    tokens = torch.ones(2, 600, dtype=torch.bool)
    tokens[0, :7] = False
    hidden[0, :7] = torch.nan
    (found,) = make_pick(tokens, ["mean_image"])(hidden).unbind(dim=1)
    expected = torch.stack([hidden[0, 7:].double().mean(dim=0), hidden[1].double().mean(dim=0)])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=0, rtol=1e-6)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("image", [None, 0])
def test_a_token_that_ends_the_answer_is_fed_and_a_suppressed_one_is_not(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, image: int | None, *, apart: bool
) -> None:
    prompts = [Prompt(text=text) for text in QUESTIONS] if image is None else show((image,) * 3)
    if apart:
        monkeypatch.setattr(first_answer, "why_apart", lambda _vlm: "as told")

    def feed(tokens: Sequence[int]) -> Tensor:
        rows = []
        for prompt, token in zip(prompts, tokens, strict=True):
            inputs = render(vlm, [prompt])
            longer = torch.cat([inputs["input_ids"], torch.tensor([[token]])], dim=1)
            pixels = {name: value for name, value in inputs.items() if name == "pixel_values"}
            made = vlm.model(input_ids=longer, **pixels, output_hidden_states=True)
            rows.append(torch.stack([state[0, -1] for state in made.hidden_states[1:-1]]))
        return torch.stack(rows)

    with torch.inference_mode():
        logits = [vlm.model(**render(vlm, [prompt])).logits[0, -1] for prompt in prompts]
        highest = [int(one.argmax()) for one in logits]
        monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", highest)
        found = embed_first_answer(vlm, prompts, blocks=BLOCKS, prefixes=Prefixes(vlm))
        torch.testing.assert_close(found[:, :-1], feed(highest), atol=1e-4, rtol=1e-4)
        monkeypatch.setattr(vlm.model.generation_config, "begin_suppress_tokens", highest)
        others = [int(one.index_fill(0, torch.tensor(highest), -torch.inf).argmax()) for one in logits]
        found = embed_first_answer(vlm, prompts, blocks=BLOCKS, prefixes=Prefixes(vlm))
        torch.testing.assert_close(found[:, :-1], feed(others), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("apart", [False, True])
def test_where_logits_are_not_finite_no_token_is_chosen_and_there_is_no_state(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, *, apart: bool
) -> None:
    if apart:
        monkeypatch.setattr(first_answer, "why_apart", lambda _vlm: "as told")
    prompts = show((0, 1, 2))
    plain = embed_first_answer(vlm, prompts, blocks=BLOCKS)
    head, passes = vlm.model.get_output_embeddings(), list[Tensor]()

    def overflow(_head: nn.Module, _args: Any, logits: Tensor) -> Tensor:
        passes.append(logits)
        spoilt = logits.clone()
        # The first choice of one prompt, the second of another.
        spoilt[len(passes), ..., 7] = (torch.nan, torch.inf)[len(passes) - 1]
        return spoilt

    handle = head.register_forward_hook(overflow)
    found = embed_first_answer(vlm, prompts, blocks=BLOCKS)
    handle.remove()
    assert found[1].isnan().all()
    torch.testing.assert_close(found[[0, 2]], plain[[0, 2]])


@pytest.mark.parametrize("position", POSITIONS)
def test_states_depend_neither_on_the_batch_nor_on_the_side_of_the_padding(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, position: Position
) -> None:
    prompts = show((0, 1, 2))
    reader = PositionReader(vlm, blocks=BLOCKS, positions=[position], prefixes=Prefixes(vlm))
    together = reader.read(prompts)
    alone = torch.cat([reader.read([prompt]) for prompt in prompts])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    if position != "first_answer":
        # transformers' own `generate` continues left-padded prompts alone.
        monkeypatch.setattr(vlm.processor.tokenizer, "padding_side", "right")
        torch.testing.assert_close(reader.read_whole(render(vlm, prompts)), alone, atol=1e-4, rtol=1e-4)
