"""What the builders of tiny models share: a tokenizer of bytes, sizes, random weights, and saving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

# Wide enough for answers to differ, small enough for a suite of all families to take seconds.
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
# Each token goes through two of four.
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def make_tokenizer(
    special: Sequence[str],
    *,
    pad: str,
    eos: str,
    bos: str | None = None,
    named: Mapping[str, str] | None = None,
) -> PreTrainedTokenizerFast:
    """A token a byte, and the family's special tokens; `named` become attributes, such as `image_token`."""
    words = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bytes_only = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    bytes_only.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_only,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        extra_special_tokens=dict(named or {}),
    )


def token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The ids that a text config holds."""
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def save(
    folder: Path, model: PreTrainedModel, processor: ProcessorMixin, *, unsaid: Sequence[int] = ()
) -> Path:
    """Draw the weights and write the folder as `save_pretrained` does; no answer holds an `unsaid` token."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            # The usual start, 0.02, leaves all answers of so small a model alike, and gates at zero shut the image out.
            if weight.ndim > 1 or not (weight == 1).all():
                # The patches of Aria are large, and would leave its positions nothing to say.
                wide = weight.ndim == 4 and weight[0].numel() > 1024
                weight.normal_(0, 0.25 / 16 if wide else 0.25, generator=generator)
        # An answer that holds the image's token would be taken for a prompt with more images than it has.
        output = (model.get_output_embeddings() or model.language_model.get_output_embeddings()).weight
        # So would one that holds a mark of Ovis2, whose embedding is another beside an image.
        marks = (*getattr(model.config, "visual_indicator_token_ids", ()), *unsaid)
        output[[token for token in (model.config.image_token_id, *marks) if token < len(output)]] = 0
    tokenizer = processor.tokenizer
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
