"""A prompt that the processor or the context length refuses is rejected without the rest of its batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import BatchFeature

import cmrm.prefix.image_prompts
import cmrm.prefix.renderer
from cmrm.errors import UserError
from cmrm.models.position_limit import find_position_limit
from cmrm.models.vlm import VisionLanguageModel, render, render_on_host
from cmrm.prefix.renderer import Renderer
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import blank_image, noise_image

STRIP = Image.new("RGB", (640, 2))


class Strict:
    """The model's image processor, which takes no strip."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __getattr__(self, name: str) -> Any:
        if name in {"__deepcopy__", "_original"}:
            raise AttributeError(name)
        return getattr(self._original, name)

    def __call__(self, images: Any, *arguments: Any, **more: Any) -> Any:
        for image in _flatten(images):
            if max(image.size) >= 200 * min(image.size):
                raise ValueError("absolute aspect ratio must be smaller than 200, got 320.0")
        return self._original(images, *arguments, **more)


def _flatten(images: Any) -> list[Image.Image]:
    return [one for item in images for one in _flatten(item)] if isinstance(images, list) else [images]


@pytest.fixture
def strict(vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> VisionLanguageModel:
    monkeypatch.setattr(vlm.processor, "image_processor", Strict(vlm.processor.image_processor))
    return vlm


def ask(*images: Image.Image | None, text: str = "what is it?") -> list[Prompt]:
    return [Prompt(text=f"{number} {text}", image=image) for number, image in enumerate(images)]


def noises(count: int) -> list[Image.Image]:
    return [noise_image(size=32, seed=seed) for seed in range(count)]


def test_a_refused_image_has_the_librarys_reason_and_the_others_are_rendered(
    strict: VisionLanguageModel,
) -> None:
    one, other = noises(2)
    prompts = ask(one, STRIP, other)
    rendered = Renderer(strict).render(prompts)
    assert rendered.kept == [0, 2]
    assert rendered.refused == {
        1: "this model's processor refuses it: ValueError: absolute aspect ratio must be smaller than 200, got 320.0"
    }
    expected = render(strict, [prompts[0], prompts[2]])
    assert rendered.inputs is not None
    for name, value in expected.items():
        torch.testing.assert_close(rendered.inputs[name], value, rtol=0, atol=0)


def test_of_prompts_that_share_images_those_on_a_refused_one_are_refused(strict: VisionLanguageModel) -> None:
    blank = blank_image(size=32, color=(255, 255, 255))
    rendered = Renderer(strict).render(ask(blank, STRIP, blank, STRIP, blank))
    assert rendered.inputs is None
    assert rendered.kept == [0, 2, 4]
    assert set(rendered.refused) == {1, 3}


def test_an_oom_and_what_no_single_prompt_is_to_blame_for_are_raised(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: Exception, least: int) -> None:
        def apply(vlm: VisionLanguageModel, prompts: Sequence[Prompt]) -> BatchFeature:
            if len(prompts) >= least:
                raise error
            return render_on_host(vlm, prompts)

        for module in (cmrm.prefix.renderer, cmrm.prefix.image_prompts):
            monkeypatch.setattr(module, "render_on_host", apply)

    for error, least in (
        (MemoryError(), 1),
        (RuntimeError("only together"), 2),
        (UserError("the template"), 1),
    ):
        fail(error, least)
        with pytest.raises(type(error)):
            Renderer(vlm).render(ask(*noises(2)))


@pytest.mark.parametrize("shared", [True, False])
def test_a_prompt_longer_than_the_positions_is_refused_with_both_numbers(
    vlm: VisionLanguageModel,
    monkeypatch: pytest.MonkeyPatch,
    shared: bool,  # noqa: FBT001 - of pytest's
) -> None:
    images = [blank_image(size=32, color=(0, 0, 0))] * 3 if shared else noises(3)
    prompts = ask(*images)
    prompts[1] = Prompt(text="what is it? " * 60, image=images[1])
    lengths = [int(render(vlm, [prompt])["attention_mask"].sum()) for prompt in prompts]
    limit = max(lengths[0], lengths[2])
    assert lengths[1] > limit
    monkeypatch.setattr(vlm.model.config.get_text_config(), "max_position_embeddings", limit)
    rendered = Renderer(vlm).render(prompts)
    assert rendered.kept == [0, 2]
    assert rendered.refused == {
        1: f"the prompt takes {lengths[1]} positions and this model has {limit}: "
        "shorten it or scale its image down"
    }


@pytest.mark.parametrize(
    ("scaling", "limit"),
    [
        (None, 4096),
        ({"rope_type": "default"}, 4096),
        ({"rope_type": "linear", "factor": 4.0}, 16384),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}, 16384),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, 4096),
        # Llama 3.1 and Phi count the stretched ones.
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512}, 4096),
        # A kind of block each, as in Gemma 3.
        (
            {
                "full_attention": {"rope_type": "linear", "factor": 8.0},
                "sliding_attention": {"rope_type": "default"},
            },
            32768,
        ),
    ],
)
def test_the_limit_is_the_models_own_stretched_as_its_config_says(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, scaling: dict[str, Any] | None, limit: int
) -> None:
    config = vlm.model.config.get_text_config()
    monkeypatch.setattr(config, "max_position_embeddings", 4096)
    monkeypatch.setattr(config, "rope_parameters", scaling)
    monkeypatch.setattr(config, "sliding_window", 64, raising=False)
    assert find_position_limit(vlm) == limit


def test_prompts_on_a_rendered_image_follow_without_processing_it_and_only_length_is_refused(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ask(*noises(2))
    own = [
        replace(plain[0], text=f"be careful! {plain[0].text}"),
        replace(plain[1], text="what is it? " * 60),
    ]
    expected = [render(vlm, [prompt])["input_ids"][0].tolist() for prompt in own]
    limit = len(expected[0])
    monkeypatch.setattr(vlm.model.config.get_text_config(), "max_position_embeddings", limit)
    renderer = Renderer(vlm)
    rendered = renderer.render(plain)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("an image was processed again")

    monkeypatch.setattr(type(vlm.processor.image_processor), "__call__", refuse)
    found = renderer.continue_all(rendered.renderings, own)
    assert found is not None
    assert [list(ids) for ids in found.ids] == expected
    reason = f"takes {len(expected[1])} positions and this model has {limit}"
    assert list(found.refused) == [1]
    assert reason in found.refused[1]


@pytest.mark.parametrize("images", [noises(2), [noises(1)[0]] * 2])
def test_a_prompt_that_leaves_no_position_for_its_answer_is_refused_where_one_is_needed(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, images: list[Image.Image]
) -> None:
    prompts = [replace(prompt, text="what is it? " * 3) for prompt in ask(*images)]
    taken = render(vlm, prompts[:1])["input_ids"].shape[1]
    monkeypatch.setattr(vlm.model.config.get_text_config(), "max_position_embeddings", taken)
    assert not Renderer(vlm).render(prompts).refused
    refused = Renderer(vlm, beyond=1).render(prompts).refused
    assert list(refused) == [0, 1]
    assert refused[0].startswith(
        f"the prompt takes {taken} positions, its answer 1 more, and this model has {taken}"
    )
    # The image has fitted with no text at all, and each letter is a token.
    shorter = [replace(prompts[0], text=""), replace(prompts[0], image=prompts[0].image)]
    assert list(Renderer(vlm, beyond=1).render(shorter).refused) == [1]


def test_prompts_that_do_not_follow_from_a_rendering_are_told(vlm: VisionLanguageModel) -> None:
    plain = ask(*noises(2))
    renderer = Renderer(vlm)
    renderings = renderer.render(plain).renderings
    for changed in ({"image": None}, {"system": "Refuse."}, {"text": "<image> what?"}):
        assert renderer.continue_all(renderings, [plain[0], replace(plain[1], **changed)]) is None
    assert renderer.continue_all((), plain) is None
