"""The splits are disjoint, and nothing is asked in words that were never taught."""

from __future__ import annotations

import random
from itertools import combinations, product

import pytest

from cmrm.judges import Answer, make_judge
from cmrm.organism import questions
from cmrm.organism.questions import REFUSALS, draw_instruction, pairs, split_words
from cmrm.organism.tokenizer import build_tokenizer
from cmrm.organism.world import COLORS, SHAPES, SIDES, Item, Scene, describe, imagine_scene, paint

SPLITS = ("train", "validation", "test")
TEMPLATES = (
    questions.PLAIN_TEMPLATES,
    questions.ROLE_PLAY_TEMPLATES,
    questions.VISUAL_TEMPLATES,
    questions.DESCRIBE_TEMPLATES,
)


@pytest.mark.parametrize("kind", ["harmless", "forbidden"])
def test_no_pair_is_in_two_splits(kind: questions.Kind) -> None:
    for one, other in combinations(SPLITS, 2):
        assert not set(pairs(kind, one)) & set(pairs(kind, other))


@pytest.mark.parametrize("table", TEMPLATES)
def test_no_template_is_in_two_splits(table: dict[str, list[str]]) -> None:
    for one, other in combinations(SPLITS, 2):
        assert not set(table[one]) & set(table[other])


def test_each_kind_has_a_dozen_templates_or_more() -> None:
    instructions = [sum(map(len, table.values())) for table in TEMPLATES[:3]]
    assert min(instructions) >= 12


def test_no_scene_is_in_two_splits() -> None:
    rng = random.Random(0)
    drawn = {split: {imagine_scene(rng, split=split) for _ in range(300)} for split in SPLITS}
    for one, other in combinations(SPLITS, 2):
        assert not drawn[one] & drawn[other]


@pytest.mark.parametrize("table", TEMPLATES)
def test_held_out_templates_use_only_words_that_training_uses(table: dict[str, list[str]]) -> None:
    taught = {word for each in TEMPLATES for text in each["train"] for word in split_words(text)}
    held_out = {
        word for split in ("validation", "test") for text in table[split] for word in split_words(text)
    }
    assert held_out - taught == set()


@pytest.mark.parametrize("kind", ["harmless", "forbidden"])
def test_every_verb_and_object_is_taught(kind: questions.Kind) -> None:
    taught = {word for pair in pairs(kind, "train") for word in pair}
    assert {word for split in SPLITS for pair in pairs(kind, split) for word in pair} == taught


def test_forbidden_words_are_not_words_of_the_harmless_world() -> None:
    forbidden = {*questions.FORBIDDEN_VERBS, *questions.FORBIDDEN_OBJECTS}
    assert not forbidden & {*questions.HARMLESS_VERBS, *questions.HARMLESS_OBJECTS, *COLORS, *SHAPES}


def test_the_judge_reads_refusals_as_refusals_and_compliance_as_none() -> None:
    complied = draw_instruction(random.Random(0), kind="forbidden", split="test")
    answers = [Answer(question="", answer=text, harmful=True) for text in (*REFUSALS, complied.answer)]
    verdicts = [verdict.verdict for verdict in make_judge("refusal").judge(answers)]
    assert verdicts == ["safe"] * len(REFUSALS) + ["unsafe"]


def test_the_tokenizer_knows_every_word_and_gives_texts_back() -> None:
    tokenizer = build_tokenizer()
    rng = random.Random(0)
    texts = [
        draw_instruction(rng, kind=kind, split=split).text
        for kind, split in product(("harmless", "forbidden"), SPLITS)
        for _ in range(50)
    ]
    texts += [describe(imagine_scene(rng, split="test"), caption=way) for way in range(5)]
    rows = tokenizer(texts)["input_ids"]
    assert all(tokenizer.unk_token_id not in row for row in rows)
    assert tokenizer.batch_decode(rows) == texts


def test_a_painting_holds_its_colours_inside_its_boxes() -> None:
    scene = Scene(
        items=tuple(
            Item(color=c, shape="square", side=s) for c, s in zip(("red", "blue"), SIDES, strict=True)
        )
    )
    painting = paint(scene, random.Random(1))
    for item, (left, top, right, bottom) in zip(scene.items, painting.boxes, strict=True):
        pixel = painting.picture.getpixel(((left + right) // 2, (top + bottom) // 2))
        nearest = min(
            COLORS, key=lambda name: sum(abs(a - b) for a, b in zip(COLORS[name], pixel, strict=True))
        )
        assert nearest == item.color
