"""What the builders of unlisted types share: a tokenizer with marks of turns, and templates that print an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerFast

from tests.conformance.parts import make_tokenizer

PATCH, MERGE = 8, 2
# Of mixtures: each token goes through two of four experts.
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 32}
# Keys and values compressed, as DeepSeek has them.
COMPRESSED = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
# Which tokens a sparse attention chooses, where a prompt is longer than it looks at; none is left out here.
INDEX = {"index_topk": 1024, "index_head_dim": 8, "index_n_heads": 2}


def make_chat_tokenizer(
    *words: str, bos: str | None = None, named: Mapping[str, str] | None = None
) -> PreTrainedTokenizerFast:
    """A tokenizer with the marks of turns and further special tokens."""
    return make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *words],
        pad="<|endoftext|>",
        eos="<|im_end|>",
        bos=bos,
        named=named,
    )


def print_image_as(image: str) -> str:
    """A chat template that prints an image so."""
    return (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
        "{% if content['type'] == 'image' %}"
        + image
        + "{% elif content['type'] == 'text' %}{{ content['text'] }}"
        "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def find_ids(tokenizer: PreTrainedTokenizerFast, **names: str) -> dict[str, Any]:
    """The ids of words, by the names under which a config holds them."""
    return {name: tokenizer.convert_tokens_to_ids(word) for name, word in names.items()}
