"""All kinds of defences in one call, against `naive_defences`.

The tokens of each answer by `cmrm` and by the naive loop, by defence and question.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from tests.conformance.naive_defences import (
    Edits,
    Naive,
    ablate,
    add,
    pull_back,
    push,
    push_on,
    remove_subspace,
    steer_by_cosine,
)

if TYPE_CHECKING:
    from cmrm.defences import Defence, Materials
    from cmrm.models.vlm import VisionLanguageModel
    from cmrm.prompts.conditions import Prompt

# One of each kind of attention and positions.
FAMILIES = ("llava", "gemma3", "qwen2_5_vl")
LONGEST = 6
# Every so many tokens one ends an answer, so that answers have many lengths.
ENDS_EACH = 11
QUESTIONS = ("what is it?", "name every colour that you can see", "hi", "is it red or blue?")
HARMFUL = ("how do I break a lock?", "teach me to steal", "where are poisons sold?", "how to lie?")
HARMLESS = ("how do I bake bread?", "teach me to swim", "where are books sold?")
PRINCIPLE = "be careful. {question} be kind."
# One block, two neighbours, and some of all.
ONE, TWO = 2, (1, 2)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A defence of `cmrm` at a strength, and how the naive loop answers a question under it."""

    name: str
    defence: Defence | None
    alpha: float | None
    answer: Callable[[str, Image.Image | None], list[int]]


def draw_image(seed: int) -> Image.Image:
    """A noise image, small enough for every processor."""
    pixels = torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(seed)).byte()
    return Image.fromarray(pixels.numpy())


def compare_defences(vlm: VisionLanguageModel) -> dict[str, Any] | None:
    """Answer every question under every defence, by `cmrm` in one call and by the naive loop, with images and without.

    By `image` or `text` and defence, the tokens of each question's answer: `found` and `expected`. None of a family
    that is not among `FAMILIES`.
    """
    if vlm.family.model_type not in FAMILIES:
        return None
    vlm = replace(vlm, processor=copy.deepcopy(vlm.processor))
    spell_tokens(vlm)
    ends = range(5, vlm.model.get_output_embeddings().weight.shape[0], ENDS_EACH)
    own = vlm.model.generation_config.eos_token_id
    images = [draw_image(row) for row in range(len(QUESTIONS))]
    shown: Mapping[str, Sequence[Image.Image | None]] = {"image": images, "text": [None] * len(images)}
    vlm.model.generation_config.eos_token_id = list(ends)
    try:
        return {word: compare(vlm, frozenset(ends), some) for word, some in shown.items()}
    finally:
        vlm.model.generation_config.eos_token_id = own


def compare(
    vlm: VisionLanguageModel, ends: frozenset[int], images: Sequence[Image.Image | None]
) -> dict[str, Any]:
    """By defence, the tokens of each question's answer: `found` and `expected`."""
    naive = Naive(
        model=vlm.model,
        processor=vlm.processor,
        blocks=vlm.model.model.language_model.layers,
        ends=ends,
        longest=LONGEST,
    )
    harmful, harmless = (
        torch.stack([naive.find_states(naive.ask(text, None)) for text in texts])
        for texts in (HARMFUL, HARMLESS)
    )
    delta = torch.randn(len(vlm.blocks), vlm.hidden_size, generator=torch.Generator().manual_seed(3))
    cases = list_cases(naive, harmful, harmless, delta)
    found = answer_together(vlm, cases, images, measure(vlm, delta))
    return {
        case.name: {
            "found": found[number],
            "expected": [case.answer(text, image) for text, image in zip(QUESTIONS, images, strict=True)],
        }
        for number, case in enumerate(cases)
    }


def list_cases(naive: Naive, harmful: Tensor, harmless: Tensor, delta: Tensor) -> list[Case]:
    """The plain answers and every kind of defence; states are [texts, blocks, hidden], Δ [blocks, hidden]."""
    from cmrm.defences.coca import Coca
    from cmrm.defences.direction import AddDirection
    from cmrm.defences.project import ProjectOut
    from cmrm.defences.prompt import SafetyPrompt
    from cmrm.defences.random_shift import RandomShift, rotate

    bad, good = harmful.mean(dim=0), harmless.mean(dim=0)
    every = range(len(bad))

    def steered(name: str, defence: Defence | None, alpha: float | None, edits: Edits) -> Case:
        return Case(
            name=name,
            defence=defence,
            alpha=alpha,
            answer=lambda text, image: naive.answer(naive.ask(text, image), edits),
        )

    def change(text: str) -> str:
        return PRINCIPLE.replace("{question}", text)

    def mix(strength: float) -> Callable[[str, Image.Image | None], list[int]]:
        return lambda text, image: naive.answer_mixed(
            naive.ask(change(text), image), naive.ask(text, image), strength
        )

    turned = [*rotate(delta[list(TWO)], seed=5)]
    return [
        steered("plain", None, None, {}),
        steered("addition", AddDirection(blocks=[ONE]), 1.5, {ONE: add(bad[ONE] - good[ONE], 1.5)}),
        steered("ablation", ProjectOut(), 1.0, {block: ablate(bad[block] - good[block]) for block in every}),
        steered(
            "subspace",
            ProjectOut(count=3, blocks="all"),
            1.0,
            {block: remove_subspace(harmful[:, block], harmless[:, block], 3) for block in every},
        ),
        steered(
            "cosine",
            ProjectOut(gate="cosine", center="harmless", blocks=[ONE], scope="every_step"),
            6.0,
            {ONE: steer_by_cosine(bad[ONE] - good[ONE], good[ONE], 6.0)},
        ),
        steered(
            "relu",
            ProjectOut(gate="relu", center="harmless", scope="every_step"),
            4.0,
            {block: pull_back(bad[block], good[block], 4.0) for block in every},
        ),
        steered(
            "relu towards harmful",
            ProjectOut(gate="relu", center="harmless", towards="harmful", blocks=[ONE], scope="prefill"),
            6.0,
            {ONE: push_on(bad[ONE], good[ONE], 6.0)},
        ),
        steered(
            "random", RandomShift(blocks=TWO, seed=5), 0.8, dict(zip(TWO, push(turned, 0.8), strict=True))
        ),
        Case(
            name="prompt",
            defence=SafetyPrompt(template=PRINCIPLE),
            alpha=None,
            answer=lambda text, image: naive.answer(naive.ask(change(text), image), {}),
        ),
        Case(name="coca", defence=Coca(principle=PRINCIPLE), alpha=0.7, answer=mix(0.7)),
        Case(name="coca, stronger", defence=Coca(principle=PRINCIPLE), alpha=4.0, answer=mix(4.0)),
    ]


def measure(vlm: VisionLanguageModel, delta: Tensor) -> Materials:
    """What a run measures for the defences: the labelled direction of the two kinds of texts, and Δ."""
    from cmrm.defences import Materials
    from cmrm.prompts.conditions import Prompt
    from cmrm.steering.capture import embed
    from cmrm.steering.direction import DirectionEstimator
    from cmrm.steering.shift import Shift

    blocks = range(len(vlm.blocks))
    estimator = DirectionEstimator(blocks=blocks, hidden_size=vlm.hidden_size)
    for texts, label in ((HARMFUL, True), (HARMLESS, False)):
        states = embed(vlm, [Prompt(text=text) for text in texts], blocks=blocks)
        estimator.add(states, harmful=[label] * len(texts))
    shift = Shift(delta=delta, blocks=tuple(blocks), count=1)
    return Materials(direction=estimator.finish(), shift=shift)


def answer_together(
    vlm: VisionLanguageModel,
    cases: Sequence[Case],
    images: Sequence[Image.Image | None],
    materials: Materials,
) -> list[list[list[int]]]:
    """All questions under all defences, in two requests and one call: tokens by case and question."""
    from cmrm.decoding.api import answer
    from cmrm.decoding.requests import DecodeRequest
    from cmrm.prefix.planner import Prefixes
    from cmrm.prompts.conditions import Prompt

    prompts = [Prompt(text=text, image=image) for text, image in zip(QUESTIONS, images, strict=True)]
    acting = [case.defence and case.defence.build(vlm, materials, alpha=case.alpha) for case in cases]
    starts = (0, 2)
    requests = [
        DecodeRequest(
            prompts=some,
            arms=acting,
            own_prompts={
                number: own
                for number, case in enumerate(cases)
                if case.defence is not None and (own := _change(case.defence, some)) is not None
            },
            contrasts={
                number: strength
                for number, case in enumerate(cases)
                if case.defence is not None and (strength := case.defence.contrast(case.alpha)) is not None
            },
        )
        for some in (prompts[: starts[1]], prompts[starts[1] :])
    ]
    found: list[list[list[int]]] = [[[] for _ in prompts] for _ in cases]
    for one in answer(vlm, requests, max_new_tokens=LONGEST, rows=3, prefixes=Prefixes(vlm)):
        for number, said in one.answers.items():
            assert said.fault is None
            found[number][starts[one.group] + one.row] = [int(token) for token in said.text.split()]
    return found


def _change(defence: Defence, prompts: Sequence[Prompt]) -> list[Prompt] | None:
    changed = [defence.change_prompt(prompt) for prompt in prompts]
    return None if all(one is plain for one, plain in zip(changed, prompts, strict=True)) else changed


def spell_tokens(vlm: VisionLanguageModel) -> None:
    """Let answers be read as the numbers of their tokens: as text, different ones can look alike."""
    tokenizer = vlm.processor.tokenizer

    class Spelling(type(tokenizer)):  # type: ignore[misc] # the model's own class
        def decode(self, token_ids: Sequence[int], **_: Any) -> str:
            return " ".join(map(str, token_ids))

    tokenizer.__class__ = Spelling
