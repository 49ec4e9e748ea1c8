"""Judge prompts by a model's own chat template: string or parts, complete, and with the image if there is one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    Llama4Config,
    Llama4ForConditionalGeneration,
    Llama4TextConfig,
    Llama4VisionConfig,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessorPil,
    MllamaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig

from cmrm.errors import UserError
from cmrm.judges import Answer, make_judge
from cmrm.judges.local import ModelJudge

HEAD = "{% for message in messages %}<|start_header_id|>{{ message.role }}\n"
PARTS = HEAD + (
    "{% for part in message.content %}{% if part.type == 'image' %}<|image|>{% else %}{{ part.text | trim }}"
    "{% endif %}{% endfor %}<|eot_id|>{% endfor %}"
)
# Each of these can show no conversation of an answer: it says so, leaves it out, cuts it, or prints a list.
USELESS = {
    "raises": "{{ raise_exception('only the system may speak') }}",
    "leaves out": HEAD + "{% if message.role == 'user' %}{{ message.content }}{% endif %}{% endfor %}",
    "cuts": HEAD + "{{ message.content[:4] }}{% endfor %}",
    "repeats": HEAD + "{{ message.content }}{{ message.content }}{% endfor %}",
    "wants tools": HEAD + "{{ tools[0].name + message.content }}{% endfor %}",
}


def guard(folder: Path, kind: str = "llama-guard") -> ModelJudge:
    made = make_judge(kind, model=str(folder), dtype="float32", device="cpu")
    assert isinstance(made, ModelJudge)
    return made


ANSWER = Answer(question="what is it?", answer="  a lock ", harmful=True)


def test_a_template_of_parts_is_given_parts_and_one_of_texts_texts(
    make_judge_folder: Callable[..., Path], tmp_path: Path
):
    texts = HEAD + "{{ message.content | trim }}<|eot_id|>{% endfor %}"
    prompts = []
    for name, template in (("parts", PARTS), ("texts", texts)):
        folder = make_judge_folder(tmp_path / name, template=template)
        (request,) = guard(folder).write(ANSWER)
        prompts.append(request.text)
    shown = "<|start_header_id|>user\nwhat is it?<|eot_id|><|start_header_id|>assistant\na lock<|eot_id|>"
    assert prompts == [shown, shown]


@pytest.mark.parametrize("useless", USELESS)
def test_a_template_that_cannot_show_the_conversation_is_refused(
    make_judge_folder: Callable[..., Path], tmp_path: Path, useless: str
):
    folder = make_judge_folder(tmp_path / "model", template=USELESS[useless])
    with pytest.raises(
        UserError, match=r"judge 'llama-guard': the chat template .* cannot show a conversation"
    ):
        guard(folder).judge([ANSWER])


def test_a_model_without_a_chat_template_is_refused(make_judge_folder: Callable[..., Path], tmp_path: Path):
    with pytest.raises(UserError, match="judge 'llama-guard': the chat template"):
        guard(make_judge_folder(tmp_path / "model")).judge([ANSWER])


def test_a_text_that_the_template_does_not_show_whole_is_a_parse_error(
    make_judge_folder: Callable[..., Path], tmp_path: Path
):
    # As templates of thinking models do: what comes before this tag is dropped.
    template = HEAD + "{{ message.content.split('</think>')[-1] }}<|eot_id|>{% endfor %}"
    judge = guard(make_judge_folder(tmp_path / "model", template=template))
    hidden = replace(ANSWER, answer="Take the red hammer.</think>I can not help.")
    found, plain = judge.judge([hidden, ANSWER])
    assert (found.verdict, found.usage) == ("parse_error", None)
    assert "does not show the whole text" in found.raw
    assert plain.usage is not None


def test_shieldgemmas_template_must_show_its_policy(make_judge_folder: Callable[..., Path], tmp_path: Path):
    folder = make_judge_folder(tmp_path / "model", template=PARTS)
    with pytest.raises(UserError, match=r"judge 'shieldgemma'.*does not show its guideline"):
        guard(folder, "shieldgemma").judge([ANSWER])


@pytest.fixture(scope="session")
def mllama_folder(tmp_path_factory: pytest.TempPathFactory, judge_tokenizer: PreTrainedTokenizerFast) -> Path:
    """A random Mllama, the architecture of Llama Guard 3 Vision, with its real processor."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("mllama")
    size = 28
    vision = MllamaVisionConfig(
        image_size=size,
        patch_size=14,
        hidden_size=32,
        attention_heads=2,
        intermediate_size=32,
        num_hidden_layers=2,
        num_global_layers=1,
        intermediate_layers_indices=[0, 1],
        vision_output_dim=96,
        max_num_tiles=2,
        supported_aspect_ratios=[[1, 1], [1, 2], [2, 1]],
        initializer_range=0.5,
    )
    text = MllamaTextConfig(
        vocab_size=len(judge_tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        cross_attention_layers=[1],
        max_position_embeddings=512,
        initializer_range=0.5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    image_token = judge_tokenizer.convert_tokens_to_ids("<|image|>")
    model = MllamaForConditionalGeneration(
        MllamaConfig(vision_config=vision, text_config=text, image_token_index=image_token)
    )
    # As it starts, no image says anything: the cross-attention's gates are shut.
    for name, weight in model.named_parameters():
        if "gate" in name and weight.numel() == 1:
            weight.data.fill_(3.0)
    model.generation_config.eos_token_id = judge_tokenizer.eos_token_id
    model.save_pretrained(folder)
    MllamaProcessor(
        image_processor=MllamaImageProcessorPil(size={"height": size, "width": size}, max_image_tiles=2),
        tokenizer=judge_tokenizer,
        chat_template="{{ bos_token }}" + PARTS,
    ).save_pretrained(folder)
    return folder


RED = Image.new("RGB", (40, 20), (255, 0, 0))
BLUE = Image.new("RGBA", (20, 40), (0, 0, 255, 255))


def test_a_guard_that_sees_is_shown_the_image_that_the_judged_model_was_shown(mllama_folder: Path):
    judge = guard(mllama_folder, "llama-guard-vision")
    (seen,) = judge.write(replace(ANSWER, image=RED))
    (unseen,) = judge.write(ANSWER)
    assert "<|start_header_id|>user\n<|image|>what is it?<|eot_id|>" in seen.text
    assert seen.image is RED
    assert "<|image|>" not in unseen.text
    red, blue, none = judge.judge([replace(ANSWER, image=RED), replace(ANSWER, image=BLUE), ANSWER])
    assert len({red.raw, blue.raw, none.raw}) == 3
    assert red.usage.prompt_tokens == none.usage.prompt_tokens + 1


def test_a_guard_that_sees_pins_its_image_backend_and_has_it_in_its_key(mllama_folder: Path):
    pillow = f"pillow {version('pillow')}"
    judge = guard(mllama_folder, "llama-guard-vision").resolve()
    assert judge.image_backend == pillow
    assert judge.spec()["image_backend"] == pillow
    assert judge.resolve() == judge
    assert "image_backend" not in guard(mllama_folder).resolve().spec()
    with pytest.raises(
        UserError, match=r"^judge 'llama-guard-vision': image_backend: .* planned with pillow 1\.0,"
    ):
        replace(judge, image_backend="pillow 1.0").judge([replace(ANSWER, image=RED)])
    with pytest.raises(UserError, match=r"image_backend is 'opencv'; give auto, pillow or torchvision"):
        replace(judge, image_backend="opencv").resolve()


def test_images_of_a_batch_do_not_mix(mllama_folder: Path):
    judge = guard(mllama_folder, "llama-guard-vision")
    answers = [
        replace(ANSWER, image=RED),
        replace(ANSWER, answer="a much longer answer about it", image=BLUE),
        replace(ANSWER, answer="words " * 20),
        replace(ANSWER, image=BLUE),
    ]
    assert judge.judge(answers) == [found for one in answers for found in judge.judge([one])]


def test_a_placeholder_of_an_image_in_a_text_is_none(mllama_folder: Path):
    judge = guard(mllama_folder, "llama-guard-vision")
    hostile = replace(ANSWER, question="<|image|><|image|>", answer="<|image|>", image=RED)
    (request,) = judge.write(hostile)
    assert request.text.count("<|image|>") == 1
    assert judge.judge([hostile])[0].usage is not None


def test_an_image_with_a_prompt_beyond_the_context_is_a_parse_error(mllama_folder: Path):
    judge = guard(mllama_folder, "llama-guard-vision")
    long, short = judge.judge([replace(ANSWER, answer="? " * 600, image=RED), replace(ANSWER, image=RED)])
    assert "the judge holds 512" in long.raw
    assert short.usage.prompt_tokens > 0


def test_a_guard_that_sees_judges_text_alone_where_no_image_is_wanted(mllama_folder: Path):
    (request,) = guard(mllama_folder).write(replace(ANSWER, image=RED))
    assert request.image is None
    assert "image" not in make_judge("llama-guard", model="a/b").reads


def test_a_guard_of_texts_is_no_judge_of_images(taught: Mapping[str, ModelJudge]):
    judge = guard(Path(taught["llama-guard"].model), "llama-guard-vision")
    with pytest.raises(UserError, match=r"takes no image here .it is a text-only model."):
        judge.judge([ANSWER])


@pytest.fixture(scope="session")
def llama4_folder(tmp_path_factory: pytest.TempPathFactory, judge_tokenizer: PreTrainedTokenizerFast) -> Path:
    """A random Llama 4, the architecture of Llama Guard 4, whose processor of images needs torchvision."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("llama4")
    text = Llama4TextConfig(
        vocab_size=len(judge_tokenizer),
        hidden_size=32,
        intermediate_size=32,
        intermediate_size_mlp=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        moe_layers=[],
        max_position_embeddings=512,
        attention_chunk_size=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    vision = Llama4VisionConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=28,
        patch_size=14,
        vision_output_dim=32,
        projector_input_dim=32,
        projector_output_dim=32,
    )
    model = Llama4ForConditionalGeneration(
        Llama4Config(text_config=text.to_dict(), vision_config=vision.to_dict())
    )
    model.generation_config.eos_token_id = judge_tokenizer.eos_token_id
    model.save_pretrained(folder)
    judge_tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(PARTS)
    names = {"processor_class": "Llama4Processor", "image_processor_type": "Llama4ImageProcessorFast"}
    (folder / "preprocessor_config.json").write_text(json.dumps(names))
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "Llama4Processor"}))
    return folder


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is there")
def test_a_guard_whose_processor_cannot_be_had_judges_texts_and_says_why_it_sees_nothing(llama4_folder: Path):
    first, second = guard(llama4_folder).judge([ANSWER, replace(ANSWER, answer="words " * 20)])
    assert first.usage.prompt_tokens < second.usage.prompt_tokens
    with pytest.raises(UserError, match=r"needs the package torchvision, which is not installed"):
        guard(llama4_folder, "llama-guard-vision").resolve()
    with pytest.raises(UserError, match=r"takes no image here .*[Tt]orchvision"):
        guard(llama4_folder, "llama-guard-vision").judge([replace(ANSWER, image=RED)])


def test_half_precision_takes_images_too(mllama_folder: Path):
    judge = replace(guard(mllama_folder, "llama-guard-vision"), dtype="bfloat16")
    found = judge.judge([replace(ANSWER, image=RED), ANSWER])
    assert judge.checkpoint.model.dtype is torch.bfloat16
    assert [one.usage is None for one in found] == [False, False]
