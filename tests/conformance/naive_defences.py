"""Defences written from their papers in plain torch: no KV cache, one prompt at a time, and nothing of `cmrm`.

Each token is chosen after the whole sequence was run again, with the outputs of decoder blocks edited by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

# Changes one block's output [tokens, hidden]; the second number is the length of the prompt in tokens.
Edit = Callable[[Tensor, int], Tensor]
Edits = Mapping[int, Edit]


@dataclass(frozen=True, kw_only=True)
class Naive:
    """A model of transformers with its processor and its decoder blocks; `ends` are the tokens that end an answer."""

    model: Any
    processor: Any
    blocks: Sequence[Any]
    ends: frozenset[int]
    longest: int

    def ask(self, text: str, image: Image.Image | None) -> dict[str, Tensor]:
        """The model's input for one question, by its own chat template."""
        content = [*([{"type": "image"}] if image is not None else []), {"type": "text", "text": text}]
        prompt = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        # A template that begins with the token itself would begin with two.
        bos = self.processor.tokenizer.bos_token
        twice = bos is not None and prompt.startswith(bos)
        images = {} if image is None else {"images": [image]}
        return dict(
            self.processor(text=[prompt], **images, return_tensors="pt", add_special_tokens=not twice).items()
        )

    def find_logits(self, asked: Mapping[str, Tensor], tokens: Sequence[int], edits: Edits) -> Tensor:
        """Run the question and the answer so far; the logits after the last token, [vocabulary]."""
        prompt = asked["input_ids"].shape
        given = {}
        for name, value in asked.items():
            more = tokens if name == "input_ids" else [int(name == "attention_mask")] * len(tokens)
            whole = value.shape == prompt
            given[name] = (
                torch.cat([value, torch.tensor([more], dtype=value.dtype)], dim=1) if whole else value
            )
        with torch.no_grad(), self._edit(edits, prompt[1]):
            logits: Tensor = self.model(**given, use_cache=False).logits[0, -1]
        return logits

    def find_states(self, asked: Mapping[str, Tensor]) -> Tensor:
        """The outputs of all blocks at the prompt's last token, [blocks, hidden]."""
        seen: dict[int, Tensor] = {}

        def keep(block: int) -> Edit:
            def edit(hidden: Tensor, _length: int) -> Tensor:
                seen[block] = hidden[-1].clone()
                return hidden

            return edit

        self.find_logits(asked, [], {block: keep(block) for block in range(len(self.blocks))})
        return torch.stack([seen[block] for block in range(len(self.blocks))])

    def answer(self, asked: Mapping[str, Tensor], edits: Edits) -> list[int]:
        """Answer greedily: the tokens, with the one that ends the answer."""
        return self._answer(lambda tokens: self.find_logits(asked, tokens, edits))

    def answer_mixed(
        self, asked: Mapping[str, Tensor], plain: Mapping[str, Tensor], strength: float
    ) -> list[int]:
        """CoCA: logits with + strength · (with − without) a principle, both after the same answer so far."""

        def mix(tokens: Sequence[int]) -> Tensor:
            with_it, without = (self.find_logits(one, tokens, {}) for one in (asked, plain))
            return with_it + strength * (with_it - without)

        return self._answer(mix)

    def _answer(self, choose: Callable[[Sequence[int]], Tensor]) -> list[int]:
        tokens: list[int] = []
        while len(tokens) < self.longest and not self.ends.intersection(tokens):
            tokens.append(int(choose(tokens).argmax()))
        return tokens

    @contextmanager
    def _edit(self, edits: Edits, length: int) -> Iterator[None]:
        def hook(edit: Edit) -> Any:
            def act(_block: Any, _args: Any, output: Any) -> Any:
                if isinstance(output, tuple):
                    return (edit(output[0][0], length)[None], *output[1:])
                return edit(output[0], length)[None]

            return act

        handles = [self.blocks[block].register_forward_hook(hook(edit)) for block, edit in edits.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def add(direction: Tensor, strength: float) -> Edit:
    """Arditi's addition: the direction is added at every position."""
    return lambda hidden, _length: hidden + strength * direction


def ablate(direction: Tensor) -> Edit:
    """Arditi's ablation: no component along the direction is left at any position."""
    unit = direction / direction.norm()
    return lambda hidden, _length: hidden - torch.outer(hidden @ unit, unit)


def remove_subspace(harmful: Tensor, harmless: Tensor, count: int) -> Edit:
    """VLM-Guard: project onto the complement of the first right singular vectors of harmful − mean of harmless."""
    first = torch.linalg.svd((harmful - harmless.mean(dim=0)).double()).Vh[:count].float()
    return lambda hidden, _length: hidden - hidden @ first.T @ first


def steer_by_cosine(direction: Tensor, reference: Tensor, strength: float) -> Edit:
    """ASTRA: h − α‖h‖ · max(cos(h − reference, v), 0) · v̂ at the prompt's last token and each generated one."""
    unit = direction / direction.norm()

    def edit(hidden: Tensor, length: int) -> Tensor:
        hidden = hidden.clone()
        for position in range(length - 1, len(hidden)):
            state = hidden[position]
            cosine = torch.cosine_similarity(state - reference, unit, dim=0).clamp(min=0)
            hidden[position] = state - strength * state.norm() * cosine * unit
        return hidden

    return edit


def pull_back(harmful: Tensor, harmless: Tensor, strength: float) -> Edit:
    """The form of MARS: move a state beyond the harmless mean back, at most by the distance of the two means."""
    distance = (harmful - harmless).norm()
    unit = (harmful - harmless) / distance

    def edit(hidden: Tensor, length: int) -> Tensor:
        hidden = hidden.clone()
        for position in range(length - 1, len(hidden)):
            beyond = (hidden[position] - harmless) @ unit
            if beyond > 0:
                hidden[position] -= strength * torch.minimum(beyond, distance) * unit
        return hidden

    return edit


def push_on(harmful: Tensor, harmless: Tensor, strength: float) -> Edit:
    """The form of MARS as its authors use it: what looks harmful moves on along r, at the prompt's last token alone."""
    distance = (harmful - harmless).norm()
    unit = (harmful - harmless) / distance

    def edit(hidden: Tensor, length: int) -> Tensor:
        hidden = hidden.clone()
        beyond = ((hidden[length - 1] - harmless) * unit).sum()
        if beyond > 0:
            hidden[length - 1] += strength * min(float(beyond), float(distance)) * unit
        return hidden

    return edit


def push(vectors: Sequence[Tensor], strength: float) -> list[Edit]:
    """Subtract a vector at each of several blocks; what earlier blocks subtracted is carried on by the residuals."""
    before = [torch.zeros_like(vectors[0]), *vectors[:-1]]

    def edit_by(difference: Tensor) -> Edit:
        def edit(hidden: Tensor, length: int) -> Tensor:
            hidden = hidden.clone()
            hidden[length - 1 :] -= strength * difference
            return hidden

        return edit

    return [edit_by(vector - earlier) for vector, earlier in zip(vectors, before, strict=True)]
