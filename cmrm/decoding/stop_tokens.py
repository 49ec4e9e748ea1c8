"""Stop tokens and suppressed tokens: the settings of a model's generation config that greedy decoding keeps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig

from cmrm.models.modules import find_output_layer
from cmrm.models.vlm import VisionLanguageModel


@dataclass(frozen=True, kw_only=True)
class DecodingRules:
    """Rules of greedy decoding: stop tokens, tokens that are never allowed, and tokens not allowed first."""

    max_new_tokens: int
    ends: frozenset[int]
    never: Tensor
    never_first: Tensor

    def narrow(self, logits: Tensor, *, begins: bool) -> Tensor:
        """Logits [..., vocabulary] with −∞ at the tokens that are not allowed; `begins` at an answer's first token."""
        forbidden = self.never_first if begins else self.never
        return logits.index_fill(-1, forbidden, -torch.inf) if forbidden.numel() else logits


def make_generation_config(vlm: VisionLanguageModel, max_new_tokens: int) -> GenerationConfig:
    """Make a `GenerationConfig` for greedy decoding to a length, with the model's own stop tokens."""
    own, tokenizer = vlm.model.generation_config, vlm.processor.tokenizer
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def make_rules(vlm: VisionLanguageModel, max_new_tokens: int) -> DecodingRules:
    """Make the decoding rules of a model for answers of at most `max_new_tokens` tokens."""
    own = vlm.model.generation_config
    ends = frozenset(list_ends(vlm))
    words = {words[0] for words in own.bad_words_ids or () if len(words) == 1}
    # A stop token among the bad words is allowed, as in `generate`.
    never = {*(own.suppress_tokens or ()), *(words - ends)}
    return DecodingRules(
        max_new_tokens=max_new_tokens,
        ends=ends,
        never=_to_tensor(vlm, never),
        never_first=_to_tensor(vlm, never | set(own.begin_suppress_tokens or ())),
    )


def list_ends(vlm: VisionLanguageModel) -> list[int]:
    """List the stop tokens (EOS)."""
    ends = make_generation_config(vlm, 1).eos_token_id
    if ends is None:
        return []
    return list(ends) if isinstance(ends, list | tuple) else [ends]


def has_long_words(vlm: VisionLanguageModel) -> bool:
    """Whether `bad_words_ids` holds words of several tokens, which depend on the tokens generated before."""
    return any(len(words) > 1 for words in vlm.model.generation_config.bad_words_ids or ())


def _to_tensor(vlm: VisionLanguageModel, tokens: set[int]) -> Tensor:
    # Ids outside the vocabulary are ignored, as in `generate`; on a GPU they would raise a device-side assert.
    known = range(find_output_layer(vlm.model).out_features)
    return torch.tensor(sorted(tokens.intersection(known)), dtype=torch.long, device=vlm.device)
