"""A shared prefix is prefilled once, is cached for the next batch, and changes no state."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prefix.cache import full_layers, open_cache, read_rest
from cmrm.prefix.image_prompts import list_ids
from cmrm.prefix.planner import MOST_KEPT, Prefixes, PromptBatch
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import noise_image
from cmrm.steering.capture import embed, read_batch
from cmrm.steering.shift import measure_sample_shift

BLOCKS = range(4)
START = "Look closely, take your time, and answer in one short sentence: "
ENDS = ("what is it?", "name every colour, one after the other", "hi")


def show(image: Image.Image | None, start: str = START, ends: Sequence[str] = ENDS) -> list[Prompt]:
    return [Prompt(text=start + end, image=image) for end in ends]


def noise(seed: int = 0) -> Image.Image:
    return noise_image(size=32, seed=seed)


@contextmanager
def count_passes(vlm: VisionLanguageModel) -> Iterator[dict[str, int]]:
    """Count the calls of the image processor, the vision tower, the whole model and its decoder."""
    seen = dict.fromkeys(("processor", "tower", "model", "decoder"), 0)

    def count(name: str) -> Any:
        def add(*_: Any) -> None:
            seen[name] += 1

        return add

    base = vlm.model.base_model
    handles = [
        module.register_forward_pre_hook(count(name))
        for name, module in (("tower", base.vision_tower), ("model", base), ("decoder", vlm.decoder))
    ]
    kind = type(vlm.processor.image_processor)
    original = kind.__call__

    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        seen["processor"] += 1
        return original(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "__call__", call)
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()


def equal_whole(vlm: VisionLanguageModel, prefixes: Prefixes, prompts: Sequence[Prompt]) -> PromptBatch:
    """Lay prompts out, and assert the tokens and the states of the same prompts prefilled without sharing."""
    batch = prefixes.lay_out(prompts)
    with torch.inference_mode():
        states = read_batch(vlm, batch, blocks=BLOCKS)
    torch.testing.assert_close(states, embed(vlm, prompts, blocks=BLOCKS), atol=1e-4, rtol=1e-4)
    whole, rests = list_ids(render(vlm, prompts)), list_ids(batch.inputs)
    lengths = [0] * len(prompts)
    if batch.prefix is not None:
        lengths = batch.prefix.mask.sum(dim=1)[batch.owners].tolist()
    assert rests == [ids[length:] for ids, length in zip(whole, lengths, strict=True)]
    return batch


def test_an_image_of_all_rows_is_processed_and_seen_once(vlm: VisionLanguageModel) -> None:
    prefixes = Prefixes(vlm)
    with count_passes(vlm) as seen:
        embed(vlm, show(noise()), blocks=BLOCKS, prefixes=prefixes)
        assert seen == {"processor": 1, "tower": 1, "model": 1, "decoder": 2}
        # Other questions on an image of the same pixels, one of which begins otherwise.
        embed(vlm, show(noise(), ends=("who?", "where?")), blocks=BLOCKS, prefixes=prefixes)
        embed(vlm, show(noise(), start="Or: "), blocks=BLOCKS, prefixes=prefixes)
        embed(vlm, show(noise())[:1], blocks=BLOCKS, prefixes=prefixes)
        assert seen == {"processor": 1, "tower": 1, "model": 1, "decoder": 5}
    with count_passes(vlm) as seen:
        embed(vlm, show(noise()), blocks=BLOCKS)
        assert seen["processor"] == 1
        assert seen["model"] == 1


@pytest.mark.parametrize("image", [None, noise()], ids=["text", "image"])
def test_states_equal_those_without_a_shared_prefix(
    vlm: VisionLanguageModel, image: Image.Image | None
) -> None:
    prefixes = Prefixes(vlm)
    first = equal_whole(vlm, prefixes, show(image))
    kept = equal_whole(vlm, prefixes, show(image, ends=("a much longer end than any before it", "b")))
    cut = equal_whole(vlm, prefixes, show(image, start=START[:-20]))
    again = equal_whole(vlm, prefixes, show(image))
    assert first.prefix is not None
    assert kept.prefix is not None
    assert cut.prefix is not None
    assert again.prefix is not None
    assert first.prefix.tokens == kept.prefix.tokens == again.prefix.tokens == cut.prefix.tokens + 20
    # The prefix was neither prefilled again nor copied.
    assert {one.prefix.layers[0][0].data_ptr() for one in (first, kept, cut, again) if one.prefix} == {
        first.prefix.layers[0][0].data_ptr()
    }


def test_the_shift_of_a_sample_is_the_same_with_shared_prefixes(vlm: VisionLanguageModel) -> None:
    prompts = {"with_image": show(noise()), "text_only": show(None)}
    torch.testing.assert_close(
        measure_sample_shift(vlm, **prompts, blocks=BLOCKS, prefixes=Prefixes(vlm)),
        measure_sample_shift(vlm, **prompts, blocks=BLOCKS),
        atol=1e-4,
        rtol=1e-4,
    )


def test_a_longer_common_prefix_replaces_the_cached_one(vlm: VisionLanguageModel) -> None:
    prefixes = Prefixes(vlm)
    first = equal_whole(vlm, prefixes, show(None))
    other = equal_whole(
        vlm, prefixes, show(None, start="Something that has little to do with it, and more: ")
    )
    assert first.prefix is not None
    assert other.prefix is not None
    assert first.prefix.layers[0][0].data_ptr() != other.prefix.layers[0][0].data_ptr()


def test_prefixes_of_two_images_are_prefilled_in_one_pass(vlm: VisionLanguageModel) -> None:
    prompts = [*show(noise(0)), *show(noise(1), ends=("a", "b")), *show(None, start="And this: ")]
    mixed = [prompts[row] for row in (0, 3, 5, 1, 6, 4, 7, 2)]
    with count_passes(vlm) as seen:
        batch = Prefixes(vlm).lay_out(mixed)
        assert seen == {"processor": 1, "tower": 1, "model": 1, "decoder": 1}
    assert batch.owners is not None
    assert batch.owners.tolist() == [0, 1, 2, 0, 2, 1, 2, 0]
    equal_whole(vlm, Prefixes(vlm), mixed)


@pytest.mark.parametrize(
    "prompts",
    [show(noise())[:1], show(None)[:1], [*show(noise(0))[:1], *show(noise(1))[:1]], show(None, start="")],
    ids=["one row", "one text", "images of their own", "little text"],
)
def test_prompts_with_little_in_common_are_prefilled_without_sharing(
    vlm: VisionLanguageModel, prompts: list[Prompt]
) -> None:
    with count_passes(vlm) as seen:
        batch = Prefixes(vlm).lay_out(prompts)
        assert seen["model"] == 0
        assert seen["processor"] <= 1
    assert batch.prefix is None
    assert torch.equal(batch.inputs["input_ids"], render(vlm, prompts)["input_ids"])


def test_the_last_token_of_a_prompt_is_never_shared(vlm: VisionLanguageModel) -> None:
    batch = equal_whole(vlm, Prefixes(vlm), show(noise(), ends=("same", "same", "same")))
    assert batch.inputs["input_ids"].shape == (3, 1)


def test_rows_with_another_system_line_have_a_prefix_of_their_own(vlm: VisionLanguageModel) -> None:
    kind = [replace(prompt, system="Be kind.") for prompt in show(noise())]
    batch = equal_whole(vlm, Prefixes(vlm), [*show(noise()), *kind])
    assert batch.owners is not None
    assert batch.owners.tolist() == [0, 0, 0, 1, 1, 1]


def test_the_least_recently_used_prefix_is_evicted(vlm: VisionLanguageModel) -> None:
    prefixes = Prefixes(vlm)
    with count_passes(vlm) as seen:
        for seed in (*range(MOST_KEPT), 0, MOST_KEPT, 0):
            embed(vlm, show(noise(seed)), blocks=BLOCKS, prefixes=prefixes)
        assert seen["model"] == MOST_KEPT + 1
        # The least recently used one was evicted.
        embed(vlm, show(noise(1)), blocks=BLOCKS, prefixes=prefixes)
        assert seen["model"] == MOST_KEPT + 2
        prefixes.forget()
        embed(vlm, show(noise(1)), blocks=BLOCKS, prefixes=prefixes)
        assert seen["model"] == MOST_KEPT + 3


def test_a_cache_stores_new_tokens_alone_and_returns_all(vlm: VisionLanguageModel) -> None:
    prompts = show(noise())
    batch = Prefixes(vlm).lay_out(prompts)
    cache = open_cache(batch)
    assert batch.prefix is not None
    with torch.inference_mode():
        read_rest(vlm, batch, cache)
        whole = vlm.model.base_model(**render(vlm, prompts[1:2]), use_cache=True).past_key_values
    new = batch.inputs["input_ids"].shape[1]
    # The longest is row 1, which has no padding on either side.
    for layer, (keys, values), expected in zip(cache.layers, full_layers(cache), whole.layers, strict=True):
        assert layer.keys.shape[2] == layer.values.shape[2] == new
        assert keys.shape[2] == batch.prefix.tokens + new == layer.get_seq_length()
        torch.testing.assert_close(keys[1:2], expected.keys, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(values[1:2], expected.values, atol=1e-4, rtol=1e-4)


def test_prompts_without_a_prefix_have_an_ordinary_cache_and_no_rest(vlm: VisionLanguageModel) -> None:
    batch = PromptBatch(inputs=render(vlm, show(None)))
    cache = open_cache(batch)
    with torch.inference_mode():
        vlm.model.base_model(**batch.inputs, past_key_values=cache, use_cache=True)
    assert full_layers(cache)[0][0].shape[2] == batch.inputs["input_ids"].shape[1]
    with pytest.raises(ValueError, match="no prefix to continue from"):
        read_rest(vlm, batch, cache)


def test_eager_attention_shares_too(llava_folder: Path) -> None:
    identity = resolve_model(str(llava_folder))
    vlm = load_model(identity, dtype="float32", device="cpu", attn_implementation="eager")
    assert equal_whole(vlm, Prefixes(vlm), show(noise())).prefix is not None


def test_what_is_not_shared_says_why(
    vlm: VisionLanguageModel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Prefixes(vlm).unshared is None
    untold = replace(vlm, family=replace(vlm.family, shares="nothing"))
    with caplog.at_level(logging.INFO, "cmrm.prefix"):
        prefixes = Prefixes(untold)
    assert prefixes.unshared is not None
    assert "the row of llava does not say" in prefixes.unshared
    assert prefixes.unshared in caplog.text
    assert prefixes.lay_out(show(noise())).prefix is None
    monkeypatch.setattr(vlm.model.config.get_text_config(), "_attn_implementation", "flash_attention_2")
    flash = Prefixes(vlm)
    assert "flash_attention_2" in str(flash.unshared)
    assert flash.lay_out(show(noise())).prefix is None


def test_a_family_that_shares_text_alone_shares_no_prompt_with_an_image(vlm: VisionLanguageModel) -> None:
    some = replace(vlm, family=replace(vlm.family, shares="text"))
    prefixes = Prefixes(some)
    assert "no image" in str(prefixes.unshared)
    assert prefixes.lay_out(show(noise())).prefix is None
    assert prefixes.lay_out(show(None)).prefix is not None


def test_a_processor_whose_tokenizer_call_is_not_seen_shares_nothing(vlm: VisionLanguageModel) -> None:
    opaque = SimpleNamespace(**vars(vlm.processor))
    opaque.apply_chat_template = vlm.processor.apply_chat_template
    assert Prefixes(replace(vlm, processor=opaque)).lay_out(show(noise())).prefix is None


def test_a_text_that_stands_for_an_image_is_not_read_as_a_rest(vlm: VisionLanguageModel) -> None:
    with pytest.raises(ValueError, match="image"):
        Prefixes(vlm).lay_out([*show(noise()), *show(noise(), ends=("<image>",))])


@settings(max_examples=25)
@given(
    starts=st.lists(st.text("ab \n", max_size=60), min_size=1, max_size=2),
    batches=st.lists(
        st.lists(
            st.tuples(st.integers(0, 1), st.text("ab\n", max_size=8), st.sampled_from((None, 0, 1))),
            min_size=1,
            max_size=4,
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_any_prompts_have_their_own_tokens_and_states(
    vlm: VisionLanguageModel, starts: list[str], batches: list[list[tuple[int, str, int | None]]]
) -> None:
    images = {None: None, 0: noise(0), 1: noise(1)}
    prefixes = Prefixes(vlm)
    for rows in batches:
        prompts = [
            Prompt(text=starts[number % len(starts)] + end, image=images[image])
            for number, end, image in rows
        ]
        equal_whole(vlm, prefixes, prompts)
