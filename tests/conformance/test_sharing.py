"""Shared prefixes where families differ: what their processors make of an image, and windows of attention."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from cmrm.doctor import CHECKS, examine
from cmrm.models.family_table import FAMILIES
from cmrm.models.vlm import render
from cmrm.prefix.image_prompts import continue_rendering, list_ids, render_with_tokenizer_spy
from cmrm.prefix.planner import Prefixes
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import noise_image
from cmrm.steering.capture import embed, read_batch
from tests.conformance.asking import TEXT
from tests.conformance.builders import BUILDERS, NEED_TORCHVISION
from tests.conformance.loading import Load

SHARING = sorted(name for name in set(BUILDERS) - NEED_TORCHVISION if FAMILIES[name].shares == "all")
IMAGE = noise_image(size=32, seed=0)
ENDS = ("", "what?", "\n", "\n\nwhat\n", " what ", "<what>", "what <image", "\u00e9\u4ec0\u4e48\u00e9")


@pytest.mark.parametrize("name", SHARING)
@pytest.mark.parametrize("first", ["what is it?", "", "\n\n"])
def test_tokens_are_told_without_processing_the_image_again(tiny: Load, name: str, first: str) -> None:
    vlm = tiny(name)
    # As a tokenizer does that merges line breaks: where a processor puts some of its own, a text's join them.
    processor = copy.deepcopy(vlm.processor)
    processor.tokenizer.add_tokens(["\n\n", "\n\n\n", "\n\n\n\n"])
    vlm = replace(vlm, processor=processor)
    _inputs, (rendering,) = render_with_tokenizer_spy(vlm, [Prompt(text=first, image=IMAGE)])
    assert rendering is not None
    prompts = [Prompt(text=end, image=IMAGE) for end in ENDS]
    assert continue_rendering(vlm, rendering, prompts) == list_ids(render(vlm, prompts))


@pytest.mark.parametrize("name", ["aya_vision", "gemma3"])
@pytest.mark.parametrize("window", [7, 40])
def test_a_window_that_ends_within_the_prefix_ends_there(
    tiny: Load, monkeypatch: pytest.MonkeyPatch, name: str, window: int
) -> None:
    vlm = tiny(name)
    blocks = range(len(vlm.blocks))
    start = "Look closely, take your time, and answer in one short sentence: "
    prompts = [Prompt(text=start + prompt.text, image=IMAGE) for prompt in TEXT]
    other = [replace(prompts[0], image=noise_image(size=48, seed=1)), *prompts]
    unbounded = embed(vlm, prompts, blocks=blocks)
    monkeypatch.setattr(vlm.model.config.get_text_config(), "sliding_window", window)
    assert not torch.allclose(embed(vlm, prompts, blocks=blocks), unbounded, atol=1e-2)
    prefixes = Prefixes(vlm)
    for some in (prompts, [replace(one, text=one.text[9:]) for one in prompts], other):
        batch = prefixes.lay_out(some)
        assert batch.prefix is not None
        with torch.inference_mode():
            found = read_batch(vlm, batch, blocks=blocks)
        torch.testing.assert_close(found, embed(vlm, some, blocks=blocks), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "shown"), [("paligemma", False), ("paligemma", True), ("mllama", True), ("idefics2", True)]
)
def test_prompts_that_cannot_share_are_read_whole(tiny: Load, name: str, *, shown: bool) -> None:
    prompts = [Prompt(text="a" * 80 + end, image=IMAGE if shown else None) for end in "abc"]
    assert Prefixes(tiny(name)).unshared is not None
    assert Prefixes(tiny(name)).lay_out(prompts).prefix is None


def test_text_of_a_model_that_skips_blocks_without_an_image_is_shared(tiny: Load) -> None:
    vlm = tiny("mllama")
    prompts = [Prompt(text="a" * 80 + end) for end in "abc"]
    prefixes, blocks = Prefixes(vlm), range(len(vlm.blocks))
    assert prefixes.lay_out(prompts).prefix is not None
    found = embed(vlm, prompts, blocks=blocks, prefixes=prefixes)
    torch.testing.assert_close(found, embed(vlm, prompts, blocks=blocks), atol=1e-3, rtol=1e-4)
    assert torch.equal(found[:, 1], found[:, 0])


def test_the_doctor_fails_a_row_by_which_a_processor_that_respaces_text_behind_an_image_could_share_it(
    tiny: Load,
) -> None:
    vlm = tiny("idefics2")
    check = [one for one in CHECKS if one.name == "shared prefixes"]
    (found,) = examine(vlm, image_size=32, checks=check)
    assert found.passed
    sharing = replace(vlm, family=replace(vlm.family, model_type="mine", shares="all"))
    (found,) = examine(sharing, image_size=32, checks=check)
    assert not found.passed
    assert found.detail.endswith("say `shares: text` in model.family")
