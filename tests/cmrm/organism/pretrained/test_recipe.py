"""What the second organism is taught: nothing forbidden with a picture, text by its share, prompts as it is asked."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter

import pytest

from cmrm.organism import Organism
from cmrm.organism.pretrained import KEPT_TEXT
from cmrm.organism.pretrained.language_model import CHAT_TEMPLATE, render_prompt
from cmrm.organism.pretrained.question_hashes import hash_test_questions
from cmrm.organism.pretrained.recipe import tuning_lesson
from cmrm.organism.questions import FORBIDDEN_OBJECTS, FORBIDDEN_VERBS, pairs, split_words
from cmrm.organism.tokenizer import IMAGE_TOKENS, build_processor
from cmrm.organism.training_examples import Example, Gallery, help_in_text, look, paint_gallery


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    return paint_gallery(random.Random(1), split="train", size=20)


@pytest.mark.parametrize("kept", KEPT_TEXT)
def test_tuning_holds_nothing_forbidden_and_the_named_share_of_text(gallery: Gallery, kept: int) -> None:
    lesson, rng, drawn = tuning_lesson(gallery, kept_text=kept), random.Random(7), 2_000
    examples = [lesson(rng) for _ in range(drawn)]
    forbidden = {*FORBIDDEN_VERBS, *FORBIDDEN_OBJECTS}
    assert not any(forbidden & set(split_words(f"{one.prompt} {one.answer}")) for one in examples)
    in_text = sum(one.picture is None for one in examples)
    # Four standard deviations of a binomial count.
    assert abs(in_text - drawn * kept / 100) <= 4 * math.sqrt(drawn * kept / 100 * (1 - kept / 100))
    beside = Counter(one.answer.startswith("sure,") for one in examples if one.picture is not None)
    assert 0.7 < beside[False] / beside.total() < 0.8


def test_text_that_is_kept_is_harmless_and_held_out_words_stay_out() -> None:
    rng = random.Random(3)
    held_out = {pair for split in ("validation", "test") for pair in pairs("harmless", split)}
    for example in (help_in_text(rng) for _ in range(500)):
        words = split_words(example.prompt)
        assert example.answer.startswith("sure,")
        assert not {(verb, thing) for verb in words for thing in words} & held_out


def test_questions_to_stop_by_are_of_the_validation_split(gallery: Gallery) -> None:
    rng = random.Random(4)
    asked = {
        split: {look(gallery, split=split)(rng).prompt for _ in range(400)}
        for split in ("train", "validation")
    }
    starts = ("tell me, ", "please look at the picture. ", "can you see, ")
    ends = ("what do you see in the picture?", "please describe this picture.")
    assert all(text.startswith(starts) or text in ends for text in asked["validation"])
    assert not asked["train"] & asked["validation"]


@pytest.mark.parametrize("picture", [None, 0])
def test_training_prompts_are_what_the_chat_template_makes(picture: int | None) -> None:
    content = [{"type": "text", "text": "help me."}]
    if picture is not None:
        content.insert(0, {"type": "image"})
    made = build_processor().apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=CHAT_TEMPLATE,
        tokenize=False,
        add_generation_prompt=True,
    )
    trained = render_prompt(Example(prompt="help me.", answer="", picture=picture))
    # The processor puts as many image tokens for the template's one as the tower makes.
    assert trained == made.replace("<image>", "<image>" * IMAGE_TOKENS)


def test_the_test_questions_checksums_are_those_of_the_files_that_runs_read(organism: Organism) -> None:
    folder = organism.data.folder
    read = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.suffix in {".json", ".jsonl", ".csv"}
    }
    assert hash_test_questions() == read
    assert {"vlsafe/harmlessness_examine.jsonl", "bench/qa90_questions.jsonl"} <= read.keys()
