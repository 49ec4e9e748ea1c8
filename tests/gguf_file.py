"""A tiny GGUF file of a LLaVA's language model, written as llama.cpp's converter writes one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM


def make_text_model(config: Any, *, seed: int) -> LlamaForCausalLM:
    """A random Llama with the shape of a LLaVA's language model."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**config.to_dict(), "initializer_range": 0.3}))


def write_gguf(path: Path, text: Any, folder: Path, *, kind: Kind = Kind.Q8_0, **changes: Any) -> Path:
    """Write a Llama with the tokens of a model's folder, its matrices quantized.

    `changes` replace `tokens`, `rope_theta` and `eps`, or add tensors by `more`.
    """
    config = text.config
    tokens = changes.get("tokens")
    if tokens is None:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokens = tokenizer.convert_ids_to_tokens(list(range(config.vocab_size)))
    file = gguf.GGUFWriter(path, "llama")
    file.add_name("tiny")
    file.add_block_count(config.num_hidden_layers)
    file.add_context_length(config.max_position_embeddings)
    file.add_embedding_length(config.hidden_size)
    file.add_feed_forward_length(config.intermediate_size)
    file.add_head_count(config.num_attention_heads)
    file.add_head_count_kv(config.num_key_value_heads)
    file.add_rope_freq_base(changes.get("rope_theta", config.rope_parameters["rope_theta"]))
    file.add_rope_dimension_count(config.head_dim)
    file.add_layer_norm_rms_eps(changes.get("eps", config.rms_norm_eps))
    file.add_vocab_size(config.vocab_size)
    file.add_tokenizer_model("gpt2")
    file.add_token_list(tokens)
    file.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in [*text.state_dict().items(), *changes.get("more", {}).items()]:
        array = weight.numpy()
        for part, count in heads.items():
            if part in name:
                # llama.cpp rotates pairs of neighbours, transformers halves.
                halves = array.reshape(count, 2, -1, array.shape[1])
                array = halves.swapaxes(1, 2).reshape(array.shape)
        kept = kind if array.ndim == 2 else Kind.F32
        data = array if kept == Kind.F32 else gguf.quantize(array, kept)
        stem = names.get_name(name.removesuffix(".weight")) or name.removesuffix(".weight")
        file.add_tensor(f"{stem}.weight", data, raw_dtype=kept)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path
