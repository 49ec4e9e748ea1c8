"""Put prompts before a judge's model, in batches: greedy, padded on the left, each reply independent of the others."""

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

# Names of groups of tokens, such as the spellings of "yes".
Watched = Mapping[str, Collection[int]]


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt as text, special tokens included but for those that `special` asks the tokenizer to add."""

    text: str
    special: bool = False
    image: Image.Image | None = None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the model wrote after a prompt, up to its end token; or why there is nothing, in `fault`.

    `logits` holds for each step the log of the summed exponentials of each watched group's logits. `cut` says that
    the reply did not end within the tokens that it was given.
    """

    text: str = ""
    tokens: tuple[int, ...] = ()
    logits: Sequence[Mapping[str, float]] = ()
    usage: Usage
    cut: bool = False
    fault: str | None = None

    def share(self, name: str, *others: str, step: int = 0) -> float | None:
        """Probability of a watched group among itself and others at a step; None where one has no token."""
        found = [self.logits[step].get(one) for one in (name, *others)] if step < len(self.logits) else [None]
        known = [one for one in found if one is not None]
        return None if len(known) < len(found) else float(torch.tensor(known).double().softmax(0)[0])


@dataclass(kw_only=True)
class _Watch(LogitsProcessor):
    """Notes at each step what the watched groups come to and whether numbers are finite, and changes no logit."""

    watched: Watched
    steps: list[Tensor] = field(default_factory=list)
    finite: list[Tensor] = field(default_factory=list)

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        wide = scores.float()
        groups = [wide[:, sorted(ids)].logsumexp(-1) for ids in self.watched.values()]
        self.steps.append(torch.stack(groups, dim=1) if groups else wide[:, :0])
        # The largest is NaN as soon as one logit is; −inf is what a model's own settings suppress.
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
    """Answer all prompts in order; one that does not fit the model's context is never cut, its reply says so."""
    replies: dict[int, Reply] = {}
    known = {name: ids for name, ids in (watched or {}).items() if ids}
    for places in _share_out(requests, batch_size):
        batch = [requests[place] for place in places]
        inputs = _encode(checkpoint, batch)
        lengths = inputs["attention_mask"].sum(1).tolist()
        room = (checkpoint.context or max(lengths) + max_new_tokens) - max_new_tokens
        for place, length in zip(places, lengths, strict=True):
            if length > room:
                replies[place] = _refuse(length, max_new_tokens, checkpoint.context)
        fitting = [place for place in places if place not in replies]
        if len(fitting) < len(places) and fitting:
            inputs = _encode(checkpoint, [requests[place] for place in fitting])
        if fitting:
            found = _generate(checkpoint, inputs, max_new_tokens=max_new_tokens, watched=known)
            replies.update(zip(fitting, found, strict=True))
    return [replies[place] for place in range(len(requests))]


def find_tokens(tokenizer: Any, word: str) -> frozenset[int]:
    """Ids of the tokens that begin a word, in small letters or with a capital, after a space or without one."""
    found = set()
    for spelling in (word, word.capitalize(), f" {word}", f" {word.capitalize()}"):
        ids = tokenizer(spelling, add_special_tokens=False)["input_ids"]
        # A blank of its own stands before the word in some vocabularies.
        found.update([one for one in ids if tokenizer.decode([one]).strip()][:1])
    return frozenset(found)


def _share_out(requests: Sequence[Request], batch_size: int) -> Iterator[list[int]]:
    """Places of prompts of like length, with an image or without: processors take no batch of both."""
    for pictured in (False, True):
        places = [place for place, one in enumerate(requests) if (one.image is not None) is pictured]
        places.sort(key=lambda place: len(requests[place].text))
        for start in range(0, len(places), batch_size):
            yield places[start : start + batch_size]


def _encode(checkpoint: Checkpoint, batch: Sequence[Request]) -> Any:
    texts, special = [one.text for one in batch], batch[0].special
    if batch[0].image is None:
        # Token types, which some tokenizers add, tell pairs of texts apart: no language model takes them.
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


def _refuse(length: int, max_new_tokens: int, context: int | None) -> Reply:
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
    length = next((place for place, token in enumerate(tokens) if token in checkpoint.ends), len(tokens))
    written = min(length + 1, len(tokens))
    usage = Usage(prompt_tokens=prompt, completion_tokens=written)
    if not all(finite[:written]):
        return Reply(usage=usage, fault="the judge's numbers stopped being finite")
    # Special tokens stay: a reply that holds any is not of the form that a judge reads.
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
