"""Batched greedy generation with a judge's model: left padding, sorting by length, token probabilities."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from cmrm.judges.checkpoint import Checkpoint
from cmrm.judges.judge import Usage

if TYPE_CHECKING:
    from PIL import Image

# Named sets of token ids, such as the spellings of "yes".
Watched = Mapping[str, Collection[int]]


@dataclass(frozen=True, kw_only=True)
class Request:
    """A rendered prompt; with `special` the tokenizer adds its special tokens, else they are in the text."""

    text: str
    special: bool = False
    image: Image.Image | None = None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """Generated text up to the end token; or `fault`, the reason why there is none.

    `logits` holds for each step the logsumexp over each watched token set. `cut` says that the reply reached
    `max_new_tokens` without an end token.
    """

    text: str = ""
    tokens: tuple[int, ...] = ()
    logits: Sequence[Mapping[str, float]] = ()
    usage: Usage
    cut: bool = False
    fault: str | None = None

    def share(self, name: str, *others: str, step: int = 0) -> float | None:
        """Probability of a watched token set against others at a step; None where one of them has no token."""
        found = [self.logits[step].get(one) for one in (name, *others)] if step < len(self.logits) else [None]
        known = [one for one in found if one is not None]
        return None if len(known) < len(found) else float(torch.tensor(known).double().softmax(0)[0])


@dataclass(kw_only=True)
class _Watch(LogitsProcessor):
    """Records at each step the logsumexp of the watched token sets, and NaN or inf; leaves the logits unchanged."""

    watched: Watched
    steps: list[Tensor] = field(default_factory=list)
    finite: list[Tensor] = field(default_factory=list)

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        wide = scores.float()
        sets = [wide[:, sorted(ids)].logsumexp(-1) for ids in self.watched.values()]
        self.steps.append(torch.stack(sets, dim=1) if sets else wide[:, :0])
        # The maximum is NaN if any logit is; −inf marks tokens that the model's settings suppress.
        self.finite.append(scores.amax(-1).isfinite())
        return scores


def ask(
    checkpoint: Checkpoint,
    requests: Sequence[Request],
    *,
    max_new_tokens: int,
    batch_size: int,
    watched: Watched | None = None,
) -> list[Reply]:
    """Generate replies to all prompts, in order; a prompt that exceeds the context length gets a `fault` instead."""
    replies: dict[int, Reply] = {}
    known = {name: ids for name, ids in (watched or {}).items() if ids}
    for batch in _make_batches(requests, batch_size):
        inputs = _encode(checkpoint, [requests[index] for index in batch])
        lengths = inputs["attention_mask"].sum(1).tolist()
        max_length = (checkpoint.context or max(lengths) + max_new_tokens) - max_new_tokens
        for index, length in zip(batch, lengths, strict=True):
            if length > max_length:
                replies[index] = _reject(length, max_new_tokens, checkpoint.context)
        accepted = [index for index in batch if index not in replies]
        if len(accepted) < len(batch) and accepted:
            inputs = _encode(checkpoint, [requests[index] for index in accepted])
        if accepted:
            found = _generate(checkpoint, inputs, max_new_tokens=max_new_tokens, watched=known)
            replies.update(zip(accepted, found, strict=True))
    return [replies[index] for index in range(len(requests))]


def find_tokens(tokenizer: Any, word: str) -> frozenset[int]:
    """Ids of the tokens that begin a word, lower case or capitalised, with or without a leading space."""
    found = set()
    for spelling in (word, word.capitalize(), f" {word}", f" {word.capitalize()}"):
        ids = tokenizer(spelling, add_special_tokens=False)["input_ids"]
        # In some vocabularies the leading space is a token of its own.
        found.update([one for one in ids if tokenizer.decode([one]).strip()][:1])
    return frozenset(found)


def _make_batches(requests: Sequence[Request], batch_size: int) -> Iterator[list[int]]:
    """Batch prompts of similar length, by index; with an image or without, since processors take no mixed batch."""
    for pictured in (False, True):
        indices = [index for index, one in enumerate(requests) if (one.image is not None) is pictured]
        indices.sort(key=lambda index: len(requests[index].text))
        for start in range(0, len(indices), batch_size):
            yield indices[start : start + batch_size]


def _encode(checkpoint: Checkpoint, batch: Sequence[Request]) -> Any:
    texts, special = [one.text for one in batch], batch[0].special
    if batch[0].image is None:
        # No token_type_ids, which some tokenizers add: language models do not accept them.
        return checkpoint.tokenizer(
            texts,
            add_special_tokens=special,
            padding=True,
            return_token_type_ids=False,
            return_tensors="pt",
        )
    assert checkpoint.processor is not None
    pictures = [[one.image.convert("RGB")] for one in batch if one.image is not None]
    return checkpoint.processor(
        text=texts, images=pictures, add_special_tokens=special, padding=True, return_tensors="pt"
    )


def _reject(length: int, max_new_tokens: int, context: int | None) -> Reply:
    return Reply(
        usage=Usage(prompt_tokens=0, completion_tokens=0),
        fault=f"the prompt has {length} tokens, and with {max_new_tokens} for the reply the judge holds {context}",
    )


@torch.inference_mode()
def _generate(checkpoint: Checkpoint, inputs: Any, *, max_new_tokens: int, watched: Watched) -> list[Reply]:
    model, watch = checkpoint.model, _Watch(watched=watched)
    inputs = inputs.to(model.device)
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    sequences = model.generate(
        **inputs,
        generation_config=GenerationConfig(max_new_tokens=max_new_tokens),
        logits_processor=LogitsProcessorList([watch]),
    )
    new = sequences[:, inputs["input_ids"].shape[1] :].tolist()
    logits = torch.stack(watch.steps, dim=1).tolist()
    finite = torch.stack(watch.finite, dim=1).tolist()
    prompts = inputs["attention_mask"].sum(1).tolist()
    return [
        _read(checkpoint, tokens, prompt, [dict(zip(watched, step, strict=True)) for step in steps], fine)
        for tokens, prompt, steps, fine in zip(new, prompts, logits, finite, strict=True)
    ]


def _read(
    checkpoint: Checkpoint,
    tokens: list[int],
    prompt: int,
    logits: Sequence[Mapping[str, float]],
    finite: Sequence[bool],
) -> Reply:
    length = next((index for index, token in enumerate(tokens) if token in checkpoint.ends), len(tokens))
    written = min(length + 1, len(tokens))
    usage = Usage(prompt_tokens=prompt, completion_tokens=written)
    if not all(finite[:written]):
        return Reply(usage=usage, fault="the judge's numbers stopped being finite")
    # Special tokens are kept: a reply that contains one is malformed and must not parse.
    text = checkpoint.tokenizer.decode(
        tokens[:length], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return Reply(
        text=text,
        tokens=tuple(tokens[:length]),
        logits=logits[:written],
        usage=usage,
        cut=length == len(tokens),
    )
