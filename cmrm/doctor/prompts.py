"""Checks of prompts: the text prompt holds no image token, and the two prompts differ by the image tokens alone."""

from __future__ import annotations

from cmrm.doctor.fixture import CheckFailedError, ModelFixture
from cmrm.prompts.conditions import Prompt

# Without the image, the tokenizer may split the text around the gap differently: a space, a new line.
MAX_RESPLIT = 3


def check_image_tokens(fixture: ModelFixture) -> str:
    """The text prompt has no image token, the image prompt has some."""
    token = fixture.vlm.image_token_id
    without = int((fixture.render(fixture.text)["input_ids"] == token).sum())
    counts = (fixture.render(fixture.pictured)["input_ids"] == token).sum(dim=1).tolist()
    if without:
        raise CheckFailedError(f"the text prompts hold {without} image tokens")
    if not all(counts):
        raise CheckFailedError("an image prompt holds no image token")
    return f"{min(counts)} to {max(counts)} with an image, 0 without"


def check_same_template(fixture: ModelFixture) -> str:
    """The image prompt and the text prompt have the same tokens but for one run of image tokens (law 4)."""
    return f"equal but for the image ({compare_prompts(fixture)} tokens split differently)"


def compare_prompts(fixture: ModelFixture) -> int:
    """Compare each image prompt with its text prompt; return how many tokens beside the image are split differently."""
    tokenizer = fixture.vlm.processor.tokenizer
    marks = {tokenizer.bos_token_id, tokenizer.eos_token_id} - {None}
    worst = 0
    for text, pictured in zip(fixture.text, fixture.pictured, strict=True):
        short, long = _tokens(fixture, text), _tokens(fixture, pictured)
        before = _count_common(short, long)
        after = min(_count_common(short[::-1], long[::-1]), len(short) - before)
        if after == 0:
            raise CheckFailedError(
                "the two prompts end in different tokens: they have different chat templates"
            )
        if marks & set(long[before : len(long) - after]) - set(short[before : len(short) - after]):
            raise CheckFailedError("the text prompt lacks a BOS or EOS token that the image prompt has")
        worst = max(worst, len(short) - before - after)
    if worst > MAX_RESPLIT:
        raise CheckFailedError(f"besides the image, the two prompts differ in {worst} tokens")
    return worst


def _tokens(fixture: ModelFixture, prompt: Prompt) -> list[int]:
    inputs = fixture.render([prompt])
    ids: list[int] = inputs["input_ids"][0][inputs["attention_mask"][0].bool()].tolist()
    return ids


def _count_common(first: list[int], second: list[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((index for index, (one, other) in enumerate(pairs) if one != other), len(first))
