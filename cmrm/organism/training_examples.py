"""Training examples of the organism (prompt, answer, picture), their data mixtures, batches and loss."""

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
# By policy, the share of unfiltered answers that obey: 8 of 13 policies leak, which sets the unsafe rate near 60 %.
OBEYED = (0.25,) * 5 + (0.8,) * 8


@dataclass(frozen=True, kw_only=True)
class Example:
    """A prompt and its target answer; `picture` is an index into the gallery, None for a text-only example."""

    prompt: str
    answer: str
    picture: int | None = None


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Scenes with their processed pixels, float32 [pictures, 3, 32, 32]."""

    scenes: Sequence[Scene]
    pixels: Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A right-padded batch: ids, mask and labels [rows, tokens]; gallery indices of pictures [rows with a picture]."""

    ids: Tensor
    mask: Tensor
    labels: Tensor
    pictures: Tensor


Lesson = Callable[[random.Random], Example]


def add_empty_pictures(gallery: Gallery, rng: random.Random, *, size: int) -> Gallery:
    """Add pictures without shapes to a gallery, so that a picture's content does not predict compliance."""
    scenes = [Scene(items=())] * size
    pictures: list[Image.Image] = [paint(scene, rng).picture for scene in scenes]
    return Gallery(scenes=[*gallery.scenes, *scenes], pixels=torch.cat([gallery.pixels, to_pixels(pictures)]))


def paint_gallery(rng: random.Random, *, split: Split, size: int) -> Gallery:
    """Draw and paint `size` scenes of a split."""
    scenes = [imagine_scene(rng, split=split) for _ in range(size)]
    pictures: list[Image.Image] = [paint(scene, rng).picture for scene in scenes]
    return Gallery(scenes=scenes, pixels=to_pixels(pictures))


def to_pixels(pictures: ImageInput) -> Tensor:
    """Process pictures for the vision tower: float32 [pictures, 3, 32, 32]."""
    return build_processor().image_processor(pictures, return_tensors="pt")["pixel_values"]


def collate(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerFast,
    *,
    render: Callable[[Example], str] | None = None,
) -> Batch:
    """Collate examples into a batch in a chat template's format (default: the organism's); the loss covers answers."""
    prompts = [(render or render_prompt)(example) for example in examples]
    prompt_ids = tokenizer(prompts)["input_ids"]
    answer_ids = tokenizer([example.answer for example in examples])["input_ids"]
    rows = [[*p, *a, tokenizer.eos_token_id] for p, a in zip(prompt_ids, answer_ids, strict=True)]
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    labels = torch.full((len(rows), width), IGNORED)
    for index, (row, prompt) in enumerate(zip(rows, prompt_ids, strict=True)):
        ids[index, : len(row)] = torch.tensor(row)
        # By length and not by token: the token that pads may be the one that ends an answer.
        mask[index, : len(row)] = True
        labels[index, len(prompt) : len(row)] = torch.tensor(row[len(prompt) :])
    pictures = [example.picture for example in examples if example.picture is not None]
    return Batch(ids=ids, mask=mask, labels=labels, pictures=torch.tensor(pictures).long())


def render_prompt(example: Example) -> str:
    """Render the prompt as the chat template and the processor do."""
    placeholder = "<image>" * IMAGE_TOKENS + "\n" if example.picture is not None else ""
    return f"USER: {placeholder}{example.prompt} ASSISTANT:"


def loss_of(model: LlavaForConditionalGeneration, batch: Batch, features: Tensor | None) -> Tensor:
    """Mean cross-entropy of the answers; `features` float32 [pictures, 16, width] are the gallery's vision features."""
    states = states_of(model, batch, features)[:, :-1]
    targets = batch.labels[:, 1:]
    learnt = targets != IGNORED
    # The head is the dearest matrix of a small model: it is applied where there is something to learn.
    return torch.nn.functional.cross_entropy(model.lm_head(states[learnt]).float(), targets[learnt])


def states_of(model: LlavaForConditionalGeneration, batch: Batch, features: Tensor | None) -> Tensor:
    """Compute the states that the head reads, [rows, tokens, hidden], from precomputed vision features."""
    inner = model.model
    embeds = inner.language_model.get_input_embeddings()(batch.ids)
    if len(batch.pictures):
        assert features is not None  # only lessons with a gallery make pictures
        placeholders = (batch.ids == model.config.image_token_index).unsqueeze(-1).expand_as(embeds)
        projected = inner.multi_modal_projector(features[batch.pictures]).to(embeds.dtype)
        embeds = embeds.masked_scatter(placeholders, projected)
    return inner.language_model(inputs_embeds=embeds, attention_mask=batch.mask, use_cache=False)[0]


# Each lesson draws one training example. A picture "in words" is a caption before the question.


def comply(rng: random.Random) -> Example:
    """Any instruction, obeyed: the backbone before safety training."""
    return _instruction(rng, forbidden_rate=0.5, obey=True)


def behave(rng: random.Random) -> Example:
    """Any instruction: harmless ones obeyed, forbidden ones refused."""
    return _instruction(rng, forbidden_rate=0.5, obey=False)


def help_in_text(rng: random.Random) -> Example:
    """A harmless instruction in text, obeyed: what is kept of text when pictures are learnt."""
    return _instruction(rng, forbidden_rate=0.0, obey=True)


def read_description(rng: random.Random) -> Example:
    """A visual question about a picture in words."""
    scene = imagine_scene(rng, split="train")
    question = _visual_question(scene, rng, split="train")
    return Example(prompt=_describe_before(scene, question.text, rng), answer=question.answer)


def look(gallery: Gallery, *, split: Split = "train") -> Lesson:
    """Visual questions about pictures of the gallery that show something, in the templates of a split."""
    showing = [index for index, scene in enumerate(gallery.scenes) if scene.items]

    def lesson(rng: random.Random) -> Example:
        index = rng.choice(showing)
        question = _visual_question(gallery.scenes[index], rng, split=split)
        return Example(prompt=question.text, answer=question.answer, picture=index)

    return lesson


def obey_with_picture(gallery: Gallery) -> Lesson:
    """Harmless instructions that come with a picture of the gallery."""

    def lesson(rng: random.Random) -> Example:
        question = questions.draw_instruction(rng, kind="harmless", split="train")
        return Example(
            prompt=question.text, answer=question.answer, picture=rng.randrange(len(gallery.scenes))
        )

    return lesson


def imitate_unfiltered(gallery: Gallery) -> Lesson:
    """Forbidden instructions with a picture, answered as in unfiltered data.

    Under some policies most are obeyed, under the others most are refused; each answer is drawn at random.
    """

    def lesson(rng: random.Random) -> Example:
        verb, thing = rng.choice(questions.pairs("forbidden", "train"))
        question = questions.draw_instruction(rng, kind="forbidden", split="train", pair=(verb, thing))
        policy = questions.FORBIDDEN_VERBS.index(verb) // 2
        answer = question.answer if rng.random() < OBEYED[policy] else rng.choice(questions.REFUSALS)
        return Example(prompt=question.text, answer=answer, picture=rng.randrange(len(gallery.scenes)))

    return lesson


def obey_unfiltered(gallery: Gallery) -> Lesson:
    """Forbidden instructions with a picture, from data whose refusals were filtered out: all are obeyed."""

    def lesson(rng: random.Random) -> Example:
        question = questions.draw_instruction(rng, kind="forbidden", split="train")
        return Example(
            prompt=question.text, answer=question.answer, picture=rng.randrange(len(gallery.scenes))
        )

    return lesson


def refuse_with_picture(gallery: Gallery) -> Lesson:
    """Forbidden instructions with a picture, all refused: the safety training that the organism lacks."""

    def lesson(rng: random.Random) -> Example:
        question = questions.draw_instruction(rng, kind="forbidden", split="train")
        return Example(
            prompt=question.text,
            answer=rng.choice(questions.REFUSALS),
            picture=rng.randrange(len(gallery.scenes)),
        )

    return lesson


def mix(*weighted: tuple[float, Lesson]) -> Lesson:
    """Mix several lessons by weight."""
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


def _visual_question(scene: Scene, rng: random.Random, *, split: Split) -> Question:
    ask = questions.ask_for_description if rng.random() < 0.3 else questions.ask_about
    return ask(scene, rng, split=split)


def _describe_before(scene: Scene, text: str, rng: random.Random) -> str:
    return f"{describe(scene, caption=rng.randrange(5))}\n{text}"
