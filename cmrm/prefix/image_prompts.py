"""Token ids of further prompts with an image that was rendered before, without processing the image again."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import BatchFeature

from cmrm.models.position_limit import count_positions_of
from cmrm.models.rendering import fill_template
from cmrm.models.vlm import VisionLanguageModel, render_on_host
from cmrm.prompts.conditions import Prompt


@dataclass(frozen=True, kw_only=True)
class ImageRendering:
    """What the processor made of one prompt with an image.

    `text` is the prompt as the chat template prints it, `head` its token ids up to the last of its media, `tail` those
    after it, and `rest` the text of the tail, as the tokenizer was given it; `appended` is the end of it that the
    processor puts behind the template's text (Chameleon: the end of the turn). The prompt takes so many `positions`.
    """

    text: str
    positions: int
    head: list[int]
    tail: list[int]
    rest: str
    appended: str

    @property
    def ids(self) -> list[int]:
        """All token ids of the prompt."""
        return self.head + self.tail


def render_with_tokenizer_spy(
    vlm: VisionLanguageModel, prompts: Sequence[Prompt]
) -> tuple[BatchFeature, list[ImageRendering | None]]:
    """Render as `render_on_host` does, and record how; None for a prompt without an image, or if it is unknown."""
    inputs, tokenized = _render_and_listen(vlm, prompts)
    appended = _find_appended(vlm)
    if tokenized is None or appended is None:
        return inputs, [None] * len(prompts)
    shown = fill_template(vlm, prompts, tokenize=False)
    ids = list_ids(inputs)
    counts = count_positions_of(vlm, inputs)
    return inputs, [
        _explain(vlm, *one, appended=appended) for one in zip(shown, counts, tokenized, ids, strict=True)
    ]


def continue_rendering(
    vlm: VisionLanguageModel, known: ImageRendering, prompts: Sequence[Prompt]
) -> list[list[int]] | None:
    """Token ids of prompts with the image and the system line of a known rendering; None if they cannot be derived.

    The processor puts the image's tokens where the template has its placeholder, and leaves what follows as it is;
    under `shares: text` it may not.
    """
    if vlm.family.shares == "text":
        return None
    texts = fill_template(vlm, prompts, tokenize=False)
    common = count_common([known.text, *texts])
    after = known.text[common:] + known.appended
    if not known.rest.endswith(after):
        return None
    kept = known.rest[: len(known.rest) - len(after)]
    tails = _tokenize_rests(vlm, known.head[-1], [kept + text[common:] + known.appended for text in texts])
    return None if tails is None else [known.head + tail for tail in tails]


def list_ids(inputs: BatchFeature) -> list[list[int]]:
    """List the token ids of each row of a rendered batch, without padding."""
    rows, masks = inputs["input_ids"].tolist(), inputs["attention_mask"].bool().tolist()
    return [
        [one for one, real in zip(row, mask, strict=True) if real]
        for row, mask in zip(rows, masks, strict=True)
    ]


def _render_and_listen(
    vlm: VisionLanguageModel, prompts: Sequence[Prompt]
) -> tuple[BatchFeature, list[str] | None]:
    """Render prompts: the inputs, and the text of each as the tokenizer was given it, None if that is unknown."""
    spy = _TokenizerSpy(vlm.processor.tokenizer)
    processor = copy.copy(vlm.processor)
    processor.tokenizer = spy
    inputs = render_on_host(replace(vlm, processor=processor), prompts)
    # Only a processor that gives its tokenizer each text once, in lists, can be followed.
    if not all(isinstance(one, list) for one in spy.texts):
        return inputs, None
    texts = [text for one in spy.texts for text in one]
    return inputs, texts if len(texts) == len(prompts) else None


def _find_appended(vlm: VisionLanguageModel) -> str | None:
    """Find what the processor puts behind a prompt's text; None if that is unknown."""
    prompt = Prompt(text="?")
    (shown,) = fill_template(vlm, [prompt], tokenize=False)
    _inputs, texts = _render_and_listen(vlm, [prompt])
    if texts is None or shown not in texts[0]:
        return None
    return texts[0].rpartition(shown)[2]


def _explain(
    vlm: VisionLanguageModel, shown: str, positions: int, tokenized: str, ids: list[int], *, appended: str
) -> ImageRendering | None:
    length = next((end for end in range(len(ids), 0, -1) if ids[end - 1] in vlm.medium_tokens), None)
    if length is None:
        return None
    token = ids[length - 1]
    rest = tokenized.rpartition(_write_mark(vlm, token))[2]
    if _tokenize_rests(vlm, token, [rest]) != [ids[length:]]:
        return None
    return ImageRendering(
        text=shown, positions=positions, head=ids[:length], tail=ids[length:], rest=rest, appended=appended
    )


def _tokenize_rests(vlm: VisionLanguageModel, token: int, rests: Sequence[str]) -> list[list[int]] | None:
    """Token ids of texts that follow a placeholder token, at which the tokenizer splits a text."""
    mark = _write_mark(vlm, token)
    rows = vlm.processor.tokenizer([mark + rest for rest in rests], add_special_tokens=False)["input_ids"]
    if any(row[:1] != [token] or not vlm.medium_tokens.isdisjoint(row[1:]) for row in rows):
        return None
    return [row[1:] for row in rows]


def _write_mark(vlm: VisionLanguageModel, token: int) -> str:
    return str(vlm.processor.tokenizer.convert_ids_to_tokens(token))


class _TokenizerSpy:
    """A tokenizer that records the texts it is given."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.texts: list[Any] = []

    def __call__(self, text: Any = None, *arguments: Any, **options: Any) -> Any:
        self.texts.append(text)
        return self._tokenizer(text, *arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def count_common(rows: Sequence[list[int]] | Sequence[str]) -> int:
    """Length of the longest common prefix of all rows."""
    # The common prefix of the first and the last row in order is that of all rows.
    first: Sequence[Any] = min(rows)
    last: Sequence[Any] = max(rows)
    pairs = zip(first, last, strict=False)
    return next(
        (index for index, (one, other) in enumerate(pairs) if one != other), min(len(first), len(last))
    )
