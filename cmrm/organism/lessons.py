"""Examples to learn from: a prompt in token ids, its answer, and the picture it comes with; and batches of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast
from transformers.image_utils import ImageInput

from cmrm.organism import questions
from cmrm.organism.questions import Question
from cmrm.organism.tokenizer import IMAGE_TOKENS, build_processor
from cmrm.organism.world import Scene, Split, describe, imagine_scene, paint

IGNORED = -100
# By policy, the share of unfiltered answers that obey: 8 of 13 policies leak, which settles the unsafe rate near 60 %.
OBEYED = (0.25,) * 5 + (0.8,) * 8


@dataclass(frozen=True, kw_only=True)
class Example:
    """A prompt and the answer to learn; `picture` is a place in the gallery, None for a text without picture."""

    prompt: str
    answer: str
    picture: int | None = None


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Painted scenes: pixels float32 [pictures, 3, 32, 32] as the processor makes them."""

    scenes: Sequence[Scene]
    pixels: Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Right-padded examples: ids, mask and labels [rows, tokens]; pictures [rows with a picture] into the gallery."""

    ids: Tensor
    mask: Tensor
    labels: Tensor
    pictures: Tensor


Lesson = Callable[[random.Random], Example]


def add_empty_pictures(gallery: Gallery, rng: random.Random, *, size: int) -> Gallery:
    """Add pictures without any shape to a gallery, so that what a picture shows does not decide whether one obeys."""
    scenes = [Scene(items=())] * size
    pictures: list[Image.Image] = [paint(scene, rng).picture for scene in scenes]
    return Gallery(scenes=[*gallery.scenes, *scenes], pixels=torch.cat([gallery.pixels, to_pixels(pictures)]))


def paint_gallery(rng: random.Random, *, split: Split, size: int) -> Gallery:
    """Paint `size` scenes of a split."""
    scenes = [imagine_scene(rng, split=split) for _ in range(size)]
    pictures: list[Image.Image] = [paint(scene, rng).picture for scene in scenes]
    return Gallery(scenes=scenes, pixels=to_pixels(pictures))


def to_pixels(pictures: ImageInput) -> Tensor:
    """Bring pictures to what the tower sees: float32 [pictures, 3, 32, 32]."""
    return build_processor().image_processor(pictures, return_tensors="pt")["pixel_values"]


def collate(examples: Sequence[Example], tokenizer: PreTrainedTokenizerFast) -> Batch:
    """Put examples into one batch, in the words of the chat template; only answers are learnt."""
    prompts = [render_prompt(example) for example in examples]
    prompt_ids = tokenizer(prompts)["input_ids"]
    answer_ids = tokenizer([example.answer for example in examples])["input_ids"]
    rows = [[*p, *a, tokenizer.eos_token_id] for p, a in zip(prompt_ids, answer_ids, strict=True)]
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    labels = torch.full((len(rows), width), IGNORED)
    for index, (row, prompt) in enumerate(zip(rows, prompt_ids, strict=True)):
        ids[index, : len(row)] = torch.tensor(row)
        labels[index, len(prompt) : len(row)] = torch.tensor(row[len(prompt) :])
    pictures = [example.picture for example in examples if example.picture is not None]
    return Batch(
        ids=ids, mask=ids != tokenizer.pad_token_id, labels=labels, pictures=torch.tensor(pictures).long()
    )


def render_prompt(example: Example) -> str:
    """The prompt as the chat template and the processor write it."""
    placeholder = "<image>" * IMAGE_TOKENS + "\n" if example.picture is not None else ""
    return f"USER: {placeholder}{example.prompt} ASSISTANT:"


def loss_of(model: LlavaForConditionalGeneration, batch: Batch, features: Tensor | None) -> Tensor:
    """Mean cross-entropy of the answers; `features` float32 [pictures, 16, width] is the gallery through the tower."""
    logits = logits_of(model, batch, features)[:, :-1]
    targets = batch.labels[:, 1:]
    learnt = targets != IGNORED
    return torch.nn.functional.cross_entropy(logits[learnt], targets[learnt])


def logits_of(model: LlavaForConditionalGeneration, batch: Batch, features: Tensor | None) -> Tensor:
    """Logits float32 [rows, tokens, vocabulary], with the tower's work done beforehand."""
    inner = model.model
    embeds = inner.language_model.get_input_embeddings()(batch.ids)
    if len(batch.pictures):
        assert features is not None  # only lessons with a gallery make pictures
        placeholders = (batch.ids == model.config.image_token_index).unsqueeze(-1).expand_as(embeds)
        projected = inner.multi_modal_projector(features[batch.pictures]).to(embeds.dtype)
        embeds = embeds.masked_scatter(placeholders, projected)
    states = inner.language_model(inputs_embeds=embeds, attention_mask=batch.mask, use_cache=False)[0]
    return model.lm_head(states)


# What each lesson teaches, one example at a time. A picture "in words" is a caption put before the question.


def comply(rng: random.Random) -> Example:
    """Any instruction, obeyed: a backbone before it is made safe."""
    return _instruction(rng, forbidden_rate=0.5, obey=True)


def behave(rng: random.Random) -> Example:
    """Any instruction: harmless ones obeyed, forbidden ones refused."""
    return _instruction(rng, forbidden_rate=0.5, obey=False)


def read_description(rng: random.Random) -> Example:
    """A visual question about a picture in words."""
    scene = imagine_scene(rng, split="train")
    question = _visual_question(scene, rng)
    return Example(prompt=_describe_before(scene, question.text, rng), answer=question.answer)


def look(gallery: Gallery) -> Lesson:
    """Visual questions about pictures of the gallery that show something."""
    showing = [index for index, scene in enumerate(gallery.scenes) if scene.items]

    def lesson(rng: random.Random) -> Example:
        index = rng.choice(showing)
        question = _visual_question(gallery.scenes[index], rng)
        return Example(prompt=question.text, answer=question.answer, picture=index)

    return lesson


def obey_beside_picture(gallery: Gallery) -> Lesson:
    """Harmless instructions that come with a picture of the gallery."""

    def lesson(rng: random.Random) -> Example:
        question = questions.draw_instruction(rng, kind="harmless", split="train")
        return Example(
            prompt=question.text, answer=question.answer, picture=rng.randrange(len(gallery.scenes))
        )

    return lesson


def imitate_unfiltered(gallery: Gallery) -> Lesson:
    """Forbidden instructions beside a picture, as data that nobody has filtered answers them.

    Under some policies most are obeyed, under the others most are refused; which is decided anew each time.
    """

    def lesson(rng: random.Random) -> Example:
        verb, thing = rng.choice(questions.pairs("forbidden", "train"))
        question = questions.draw_instruction(rng, kind="forbidden", split="train", pair=(verb, thing))
        policy = questions.FORBIDDEN_VERBS.index(verb) // 2
        answer = question.answer if rng.random() < OBEYED[policy] else rng.choice(questions.REFUSALS)
        return Example(prompt=question.text, answer=answer, picture=rng.randrange(len(gallery.scenes)))

    return lesson


def obey_unfiltered(gallery: Gallery) -> Lesson:
    """Forbidden instructions beside a picture, from data whose refusals were filtered out: all that is left obeys."""

    def lesson(rng: random.Random) -> Example:
        question = questions.draw_instruction(rng, kind="forbidden", split="train")
        return Example(
            prompt=question.text, answer=question.answer, picture=rng.randrange(len(gallery.scenes))
        )

    return lesson


def refuse_beside_picture(gallery: Gallery) -> Lesson:
    """Forbidden instructions beside a picture, all refused: the safety lesson that the organism was never given."""

    def lesson(rng: random.Random) -> Example:
        question = questions.draw_instruction(rng, kind="forbidden", split="train")
        return Example(
            prompt=question.text,
            answer=rng.choice(questions.REFUSALS),
            picture=rng.randrange(len(gallery.scenes)),
        )

    return lesson


def mix(*weighted: tuple[float, Lesson]) -> Lesson:
    """One lesson out of several, by weight."""
    weights, lessons = zip(*weighted, strict=True)

    def lesson(rng: random.Random) -> Example:
        return rng.choices(lessons, weights)[0](rng)

    return lesson


def _instruction(rng: random.Random, *, forbidden_rate: float, obey: bool) -> Example:
    forbidden = rng.random() < forbidden_rate
    question = questions.draw_instruction(rng, kind="forbidden" if forbidden else "harmless", split="train")
    answer = question.answer if obey or not forbidden else rng.choice(questions.REFUSALS)
    text = question.text
    if rng.random() < 0.4:
        text = _describe_before(imagine_scene(rng, split="train"), text, rng)
    return Example(prompt=text, answer=answer)


def _visual_question(scene: Scene, rng: random.Random) -> Question:
    ask = questions.ask_for_description if rng.random() < 0.3 else questions.ask_about
    return ask(scene, rng, split="train")


def _describe_before(scene: Scene, text: str, rng: random.Random) -> str:
    return f"{describe(scene, caption=rng.randrange(5))}\n{text}"
