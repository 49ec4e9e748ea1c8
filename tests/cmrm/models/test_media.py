"""Prompts with several images, with video and with sound, as a model is given them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import cmrm
from cmrm.decoding.api import generate
from cmrm.doctor.fixture import CheckFailedError, ModelFixture
from cmrm.doctor.media import check_media, find_forms
from cmrm.errors import UserError
from cmrm.models.family_table import FAMILIES
from cmrm.models.image_tokens import find_image_tokens
from cmrm.models.media import (
    explain_unprinted,
    find_rate,
    list_video_arguments,
    make_parts,
    resample,
    split_by_kind,
)
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prefix.planner import Prefixes, group_rows
from cmrm.prefix.renderer import Renderer
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.media import Audio, Video
from cmrm.steering.capture import embed
from cmrm.steering.intervention import Intervention

COLORS = ("red", "green", "blue")
PICTURES = [
    Image.fromarray(np.random.default_rng(row).integers(0, 256, (20 + row, 30, 3), dtype=np.uint8))
    for row in range(3)
]
VIDEO = Video(frames=tuple(Image.new("RGB", (8, 8), color) for color in COLORS), fps=1.5)
SOUND = Audio(samples=np.zeros(160, dtype=np.float32), rate=16_000)
# Prints the first image of a prompt alone.
ONE_IMAGE = (
    "{% for turn in messages %}{% for part in turn.content %}{% if part.type == 'text' %}{{ part.text }}"
    "{% elif loop.first %}<image>{% endif %}{% endfor %}{% endfor %}"
)
TWO, THREE = tuple(PICTURES[:2]), tuple(PICTURES)


def ask(media: tuple = TWO, text: str = "what is it?", **more) -> Prompt:
    return Prompt(text=text, media=media, **more)


def embed_naively(vlm: VisionLanguageModel, text: str, images: Sequence[Image.Image]) -> torch.Tensor:
    """States of a prompt's last token by transformers alone, from a text with one mark an image: [blocks, hidden]."""
    marks = "<image>\n" * len(images)
    inputs = vlm.processor(
        text=f"USER: {marks}{text} ASSISTANT:", images=list(images) or None, return_tensors="pt"
    )
    with torch.inference_mode():
        made = vlm.model.model(**inputs, output_hidden_states=True, use_cache=False).hidden_states
    return torch.stack([one[0, -1] for one in made[1:-1]])


def test_several_images_are_shown_in_their_order_before_the_text(vlm: VisionLanguageModel) -> None:
    prompts = [ask(), ask(TWO[::-1]), ask(THREE)]
    found = torch.cat([embed(vlm, [one], blocks=[0]) for one in prompts])
    for prompt, state in zip(prompts, found, strict=True):
        naive = embed_naively(vlm, "what is it?", prompt.media)
        torch.testing.assert_close(state[0], naive[0], atol=1e-5, rtol=1e-5)
    assert float((found[0] - found[1]).norm()) > 1e-3


def test_numbers_of_images_in_a_batch_and_shared_prefixes_change_no_state(vlm: VisionLanguageModel) -> None:
    texts = ("what is it?", "name every colour that you can see in the picture", "hi")
    prompts = [ask(THREE, texts[0]), Prompt(text=texts[1], image=PICTURES[0]), ask(TWO, texts[2])]
    prompts += [Prompt(text="hello"), *(ask(TWO, text) for text in texts)]
    alone = torch.cat([embed(vlm, [one], blocks=[0, 1]) for one in prompts])
    torch.testing.assert_close(embed(vlm, prompts, blocks=[0, 1]), alone, atol=1e-4, rtol=1e-4)
    same = prompts[-3:]
    batch = Prefixes(vlm).lay_out(same)
    assert batch.prefix is not None
    # Both images are in the prefix.
    assert batch.prefix.tokens > 2 * 16
    shared = embed(vlm, same, blocks=[0, 1], prefixes=Prefixes(vlm))
    torch.testing.assert_close(shared, alone[-3:], atol=1e-4, rtol=1e-4)


def test_prompts_are_grouped_by_all_that_they_show_and_its_order() -> None:
    copied = tuple(image.copy() for image in TWO)
    prompts = [
        ask(),
        ask(copied),
        ask(TWO[::-1]),
        ask(THREE),
        Prompt(text="?", image=TWO[0]),
        Prompt(text="?"),
    ]
    assert [group.rows for group in group_rows(prompts)] == [(0, 1), (2,), (3,), (4,), (5,)]


def test_own_shift_at_full_strength_gives_the_state_of_the_text(vlm: VisionLanguageModel) -> None:
    text = embed(vlm, [Prompt(text="what is it?")], blocks=[1])
    delta = embed(vlm, [ask()], blocks=[1]) - text
    with cmrm.steer(vlm, Intervention(delta=delta, alpha=1.0, blocks=(1,))):
        steered = cmrm.hidden_states(vlm, [ask()], blocks=[1])
    torch.testing.assert_close(steered, text, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scope", ["every_step", "all"])
def test_steered_answers_about_several_images_equal_a_loop_without_a_cache(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, scope: str
) -> None:
    block, steps = 0, 5
    # The loop would look for the image of such a token.
    monkeypatch.setattr(vlm.model.generation_config, "suppress_tokens", [vlm.image_token_id])
    generator = torch.Generator().manual_seed(3)
    delta = torch.randn(1, vlm.hidden_size, generator=generator)
    inputs = render(vlm, [ask()])
    ids, image = inputs["input_ids"], vlm.image_token_id
    start = ids.shape[1] - 1

    def subtract(_module, _args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden.clone()
        chosen = [
            place
            for place in range(hidden.shape[1])
            if (place >= start if scope == "every_step" else int(ids[0, place]) != image)
        ]
        hidden[:, chosen] -= delta
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = vlm.blocks[block].register_forward_hook(subtract)
    try:
        with torch.inference_mode():
            for _ in range(steps):
                mask = torch.ones_like(ids)
                logits = vlm.model(
                    input_ids=ids, attention_mask=mask, pixel_values=inputs["pixel_values"], use_cache=False
                ).logits
                logits[..., image] = -torch.inf
                ids = torch.cat([ids, logits[:, -1:].argmax(dim=-1)], dim=1)
    finally:
        handle.remove()
    own = Intervention(delta=delta, alpha=1.0, blocks=(block,), scope=scope)
    (answer,) = generate(vlm, [ask()], max_new_tokens=steps, intervention=own).answers
    tokens = ids[0, start + 1 :].tolist()
    eos = vlm.processor.tokenizer.eos_token_id
    tokens = tokens[: tokens.index(eos)] if eos in tokens else tokens
    assert answer.text == vlm.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()


@pytest.mark.parametrize("control", ["gap", "marks", "filler"])
def test_a_control_takes_the_place_of_all_images(vlm: VisionLanguageModel, control: str) -> None:
    shown, text = (render(vlm, [one])["input_ids"][0].tolist() for one in (ask(), Prompt(text="what is it?")))
    made = render(vlm, [ask(control=control)])
    ids, positions = made["input_ids"][0].tolist(), made["position_ids"][0].tolist()
    image = vlm.image_token_id
    assert shown.count(image) == 2 * 16
    kept = [place for place, one in enumerate(shown) if one != image]
    if control == "gap":
        assert ids == text
        assert positions[-1] == len(shown) - 1
        assert max(np.diff(positions)) > 2 * 16
    elif control == "marks":
        assert (ids, positions) == ([shown[place] for place in kept], kept)
    else:
        assert positions == list(range(len(shown)))
        assert [ids[place] for place in kept] == [shown[place] for place in kept]
        assert image not in ids


def test_states_at_image_tokens_are_those_of_all_images(vlm: VisionLanguageModel) -> None:
    inputs = render(vlm, [ask()])
    own = find_image_tokens(vlm, inputs)[0]
    assert int(own.sum()) == 2 * 16
    with torch.inference_mode():
        made = vlm.model.model(**inputs, output_hidden_states=True, use_cache=False).hidden_states[1][0]
    mean = cmrm.hidden_states(vlm, [ask()], blocks=[0], position="mean_image")
    last = cmrm.hidden_states(vlm, [ask()], blocks=[0], position="last_image")
    torch.testing.assert_close(mean[0, 0], made[own].mean(dim=0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(last[0, 0], made[own][-1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("media", "said"),
    [
        ((VIDEO,), "llava does not take video: its row lists one image, several images"),
        ((SOUND,), "llava does not take sound"),
        ((PICTURES[0], VIDEO), "llava does not take video or media of several kinds together"),
    ],
)
def test_media_that_a_type_does_not_take_are_refused_by_name_and_cost_no_other_row(
    vlm: VisionLanguageModel, media: tuple, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        render(vlm, [ask(media)])
    found = Renderer(vlm).render([Prompt(text="hi"), ask(media), ask()])
    assert list(found.kept) == [0, 2]
    assert set(found.refused) == {1}
    assert said in found.refused[1]
    assert found.inputs["input_ids"].shape[0] == 2
    assert list(Renderer(vlm).render([ask(media)]).kept) == []


def test_media_that_a_template_leaves_out_are_refused(vlm: VisionLanguageModel) -> None:
    only_one = replace(vlm, template=ONE_IMAGE)
    with pytest.raises(UserError, match="prints nothing for image 2 of 2"):
        render(only_one, [ask()])
    assert "prints nothing for image 2" in Renderer(only_one).render([ask(), Prompt(text="?")]).refused[0]
    claimed = replace(vlm, family=replace(vlm.family, media=("video",)))
    said = explain_unprinted(vlm.processor, vlm.template, ["video"], form="parts", system=None, who="llava")
    assert "prints nothing for video 1 of 1" in str(said)
    # A row that claims what its template does not print fails the doctor's check.
    with pytest.raises(CheckFailedError, match=r"video: .*prints nothing"):
        check_media(ModelFixture(vlm=claimed, seed=0, image_size=32))
    with pytest.raises(CheckFailedError, match=r"several images: .*prints nothing for image 2"):
        check_media(ModelFixture(vlm=only_one, seed=0, image_size=32))


def test_a_row_that_lists_no_media_takes_one_image_alone(vlm: VisionLanguageModel) -> None:
    single = replace(vlm, family=replace(vlm.family, media=()))
    with pytest.raises(UserError, match="does not take several images: its row lists one image"):
        render(single, [ask()])
    assert "one image alone" in check_media(ModelFixture(vlm=single, seed=0, image_size=32))


def test_the_doctor_sees_that_media_do_not_reach_the_states(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = check_media(ModelFixture(vlm=vlm, seed=0, image_size=32))
    assert passed.startswith("several images: ")
    features = vlm.model.model.get_image_features

    def forget(*args, **kwargs):
        made = features(*args, **kwargs)
        made.pooler_output = [one * 0 for one in made.pooler_output]
        return made

    monkeypatch.setattr(vlm.model.model, "get_image_features", forget)
    with pytest.raises(CheckFailedError, match="the model does not see them"):
        check_media(ModelFixture(vlm=vlm, seed=0, image_size=32))


def test_a_derived_row_lists_the_media_that_pass_their_check(vlm: VisionLanguageModel) -> None:
    derived = replace(vlm, family=replace(vlm.family, media=()))
    assert find_forms(ModelFixture(vlm=derived, seed=0, image_size=32)) == ("images",)
    one_image = replace(derived, template=ONE_IMAGE)
    assert find_forms(ModelFixture(vlm=one_image, seed=0, image_size=32)) == ()


def test_prompts_with_video_or_sound_go_alone_and_others_as_before() -> None:
    prompts = [
        Prompt(text="hi"),
        ask(),
        ask((VIDEO,)),
        Prompt(text="?", image=PICTURES[0]),
        ask((VIDEO,)),
        ask((SOUND,)),
        ask(control="gap"),
    ]
    assert split_by_kind(FAMILIES["llava"], prompts) == [[0, 1, 3], [2], [4], [5], [6]]
    assert split_by_kind(FAMILIES["paligemma"], prompts) == [[0], [1, 3], [2], [4], [5], [6]]


def test_a_prompt_with_video_in_a_batch_is_refused(vlm: VisionLanguageModel) -> None:
    with pytest.raises(ValueError, match="by itself"):
        render(vlm, [ask((VIDEO,)), Prompt(text="hi")])


def test_processors_are_told_each_frame_and_its_time() -> None:
    (part,) = make_parts([VIDEO], rate=16_000)
    assert part["type"] == "video"
    assert part["video"].shape == (3, 8, 8, 3)
    assert part["video"][1, 0, 0].tolist() == [0, 128, 0]
    told = list_video_arguments([ask((VIDEO,)), Prompt(text="hi"), ask((PICTURES[0], VIDEO))])
    assert told["do_sample_frames"] is False
    assert [one["fps"] for one in told["video_metadata"]] == [1.5, 1.5]
    assert [one["frames_indices"] for one in told["video_metadata"]] == [[0, 1, 2]] * 2
    assert list_video_arguments([ask()]) == {}


@pytest.mark.parametrize(
    ("rate", "new"), [(16_000, 8_000), (8_000, 16_000), (44_100, 16_000), (16_000, 16_000)]
)
def test_a_tone_is_the_same_tone_at_another_rate(rate: int, new: int) -> None:
    tone, seconds = 1_000, 0.1
    given = np.sin(2 * np.pi * tone * np.arange(round(rate * seconds)) / rate).astype(np.float32)
    expected = np.sin(2 * np.pi * tone * np.arange(round(new * seconds)) / new)
    found = resample(given, rate, new)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-4


def test_what_a_lower_rate_cannot_hold_is_left_out() -> None:
    given = np.sin(2 * np.pi * 6_000 * np.arange(1_600) / 16_000).astype(np.float32)
    assert np.abs(resample(given, 16_000, 8_000)).max() < 1e-6


def test_sound_is_handed_over_at_the_rate_of_the_processor() -> None:
    class Extractor:
        sampling_rate = 8_000

    class Processor:
        feature_extractor = Extractor()

    assert (find_rate(Processor()), find_rate(object())) == (8_000, 16_000)
    (part,) = make_parts([SOUND], rate=8_000)
    assert (part["type"], part["audio"].shape) == ("audio", (80,))


def test_shift_of_prompts_with_media_is_measured_with_the_counterpart_of_each(
    vlm: VisionLanguageModel,
) -> None:
    prompts = [ask(), Prompt(text="hi", image=PICTURES[2])]
    shift = cmrm.measure_shift(vlm, prompts, image="blank", blocks=[0])
    white = [Image.new("RGB", image.size, "white") for image in TWO]
    square = Image.new("RGB", (336, 336), "white")
    own = [
        embed_naively(vlm, "what is it?", white)[0] - embed_naively(vlm, "what is it?", [])[0],
        embed_naively(vlm, "hi", [square])[0] - embed_naively(vlm, "hi", [])[0],
    ]
    torch.testing.assert_close(shift.delta[0], sum(own) / 2, atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match="prompts with media take a word"):
        cmrm.measure_shift(vlm, prompts, image=square)
    (made,) = cmrm.generate(vlm, prompts, max_new_tokens=2)
    assert len(made.answers) == 2
