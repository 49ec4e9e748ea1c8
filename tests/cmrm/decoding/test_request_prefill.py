"""What the arms of one request share of their prefill: computed once, freed with the last arm, and never mixed up."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from cmrm.decoding.api import answer
from cmrm.decoding.hf_generate import generate_apart
from cmrm.decoding.request_prefill import RequestPrefill
from cmrm.decoding.requests import DecodeRequest
from cmrm.decoding.scheduler import split_request
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prefix.block_skipping import skip_blocks
from cmrm.prefix.image_features import ImageFeatures
from cmrm.prefix.planner import Prefixes
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import noise_image
from cmrm.steering.intervention import Intervention, Stack
from cmrm.steering.settings import Scope

PLAIN = [
    Prompt(text=text, image=noise_image(size=32, seed=row))
    for row, text in enumerate(("what?", "why is it?"))
]
OWN = [replace(prompt, text=f"be careful! {prompt.text}") for prompt in PLAIN]
SYSTEM = [replace(prompt, system="Refuse what is harmful.") for prompt in PLAIN]
LONGEST = 5


@contextmanager
def counted(module: nn.Module) -> Iterator[list[int]]:
    """The rows of each pass of a module."""
    rows: list[int] = []

    def note(_module: nn.Module, args: Any, kwargs: Any) -> None:
        given = [*args, *kwargs.values()]
        rows.append(next(one.shape[0] for one in given if isinstance(one, torch.Tensor)))

    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()


def push(vlm: VisionLanguageModel, block: int, *, seed: int = 0, rows: int | None = None) -> Intervention:
    shape = (1, vlm.hidden_size) if rows is None else (rows, 1, vlm.hidden_size)
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return Intervention(delta=delta, alpha=1.0, blocks=(block,), scope="every_position", composition="direct")


def ask(vlm: VisionLanguageModel, request: DecodeRequest, *, rows: int = 2) -> list[list[str]]:
    """The answers by arm and row, a dash for an arm that a row does not want."""
    done = answer(vlm, [request], max_new_tokens=LONGEST, rows=rows, prefixes=Prefixes(vlm))
    by_row = {one.row: one.answers for one in done}
    return [
        [by_row[row][arm].text if arm in by_row[row] else "-" for row in range(len(request.prompts))]
        for arm in range(len(request.arms))
    ]


def answer_alone(vlm: VisionLanguageModel, request: DecodeRequest) -> list[list[str]]:
    return [
        [
            generate_apart(
                vlm,
                [request.prompt_of(row, arm)],
                max_new_tokens=LONGEST,
                intervention=one and one.of_rows([row]),
            )
            .answers[0]
            .text
            if arm in request.arms_of(row)
            else "-"
            for row in range(len(request.prompts))
        ]
        for arm, one in enumerate(request.arms)
    ]


@pytest.mark.parametrize("rows", [2, 3])
def test_tower_runs_once_and_each_block_only_where_an_arm_differs(
    vlm: VisionLanguageModel, rows: int
) -> None:
    last = len(vlm.blocks) - 1
    request = DecodeRequest(
        prompts=PLAIN,
        arms=[None, push(vlm, 0), push(vlm, last), None, push(vlm, 0, seed=1, rows=2)],
        own_prompts={3: OWN},
    )
    expected = answer_alone(vlm, request)
    assert len({tuple(one) for one in expected}) == len(expected)
    parts = split_request(request, 0, most=2)
    shared = RequestPrefill(vlm, Prefixes(vlm), request=request, parts=parts)
    with (
        counted(vlm.model.model.vision_tower) as tower,
        counted(vlm.blocks[0].self_attn) as first,
        counted(vlm.blocks[last].self_attn) as final,
    ):
        for part in parts:
            shared.prefill(part)
    assert tower == [2]
    # The plain prompts, and what follows the image in the arm that asks otherwise.
    assert first == [2, 2]
    assert final == [2, 2, 2, 2]
    assert ask(vlm, request, rows=rows) == expected


@pytest.mark.parametrize("scope", ["prefill", "every_step"])
def test_a_stack_of_which_a_part_acts_on_the_last_token_alone_is_answered_as_alone(
    vlm: VisionLanguageModel, scope: Scope
) -> None:
    last = len(vlm.blocks) - 1
    stacks = [
        Stack(parts=(push(vlm, 1), replace(push(vlm, block, seed=2), alpha=9.0, scope=scope)))
        for block in (0, 1, last)
    ]
    request = DecodeRequest(prompts=PLAIN, arms=[None, *stacks, push(vlm, 1)])
    expected = answer_alone(vlm, request)
    assert len({tuple(one) for one in expected}) == len(expected)
    assert ask(vlm, request) == expected


def test_arms_that_show_other_images_of_that_size_are_answered_as_alone(vlm: VisionLanguageModel) -> None:
    others = [replace(own, image=noise_image(size=32, seed=7 + row)) for row, own in enumerate(OWN)]
    request = DecodeRequest(prompts=PLAIN, arms=[None, None, None], own_prompts={1: OWN, 2: others})
    expected = answer_alone(vlm, request)
    assert expected[1] != expected[2]
    assert ask(vlm, request) == expected


def test_arms_that_want_other_rows_and_other_system_lines_are_answered_as_alone(
    vlm: VisionLanguageModel,
) -> None:
    request = DecodeRequest(
        prompts=PLAIN,
        arms=[None, push(vlm, 1), None, None],
        own_prompts={2: OWN, 3: SYSTEM},
        wanted=[frozenset({0, 2, 3}), frozenset({0, 1, 2})],
    )
    assert ask(vlm, request) == answer_alone(vlm, request)


@pytest.mark.parametrize("shown", [True, False])
def test_prompts_that_share_an_image_or_have_none_are_answered_as_alone(
    vlm: VisionLanguageModel,
    shown: bool,  # noqa: FBT001 - of pytest's
) -> None:
    image = PLAIN[0].image if shown else None
    request = DecodeRequest(
        prompts=[replace(prompt, image=image) for prompt in PLAIN],
        arms=[None, push(vlm, 0), push(vlm, 1), None],
        own_prompts={3: [replace(prompt, image=image) for prompt in OWN]},
    )
    parts = split_request(request, 0, most=2)
    shared = RequestPrefill(vlm, Prefixes(vlm), request=request, parts=parts)
    with counted(vlm.blocks[0].self_attn) as first:
        for part in parts:
            if part.throughout is not None:
                shared.prefill(part)
    # One pass up to the first change, for both.
    assert first == [2]
    assert ask(vlm, request) == answer_alone(vlm, request)


def test_what_parts_share_is_freed_with_the_last_of_them(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[RequestPrefill]] = []
    original = RequestPrefill.__init__

    def begin(self: RequestPrefill, *arguments: Any, **options: Any) -> None:
        made.append(weakref.ref(self))
        original(self, *arguments, **options)

    monkeypatch.setattr(RequestPrefill, "__init__", begin)
    request = DecodeRequest(prompts=PLAIN[:1], arms=[None, push(vlm, 0), push(vlm, 1)])
    left: list[int] = []
    requests = iter([request, request, request])

    def give() -> Iterator[DecodeRequest]:
        for one in requests:
            gc.collect()
            left.append(sum(known() is not None for known in made))
            yield one

    for _ in answer(vlm, give(), max_new_tokens=LONGEST, rows=1, prefixes=Prefixes(vlm)):
        pass
    assert len(made) == 3
    assert left == [0, 0, 0]
    gc.collect()
    assert all(known() is None for known in made)


def test_a_skipped_block_runs_again_afterwards_also_after_an_error(vlm: VisionLanguageModel) -> None:
    inputs = render(vlm, PLAIN[:1])

    def read() -> torch.Tensor:
        with torch.inference_mode():
            return vlm.model(**inputs).logits

    plain = read()
    with skip_blocks(vlm, {0: None}):
        assert not torch.equal(read(), plain)
    with pytest.raises(ZeroDivisionError), skip_blocks(vlm, {0: None, 1: None}):
        raise ZeroDivisionError
    assert torch.equal(read(), plain)
    assert not any("forward" in vars(block) for block in vlm.blocks)


def test_image_features_are_computed_again_for_other_pixels_alone(vlm: VisionLanguageModel) -> None:
    base = vlm.model.base_model
    one, other = (render(vlm, [prompt])["pixel_values"] for prompt in PLAIN)
    features = ImageFeatures(vlm)
    with torch.inference_mode(), counted(vlm.model.model.vision_tower) as tower:
        expected = [base.get_image_features(pixel_values=pixels).pooler_output[0] for pixels in (one, other)]
        with features.remembered():
            found = [
                base.get_image_features(pixel_values=pixels).pooler_output[0]
                for pixels in (one, other, one.clone(), other)
            ]
        base.get_image_features(pixel_values=one)
    assert len(tower) == 2 + 2 + 1
    for made, wanted in zip(found, expected * 2, strict=True):
        torch.testing.assert_close(made, wanted, rtol=0, atol=0)
    assert not torch.equal(expected[0], expected[1])
