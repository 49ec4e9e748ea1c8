"""Writes a small Llama folder as model.gguf for llama.cpp, with nameless tokens: it is asked by token ids.

llama.cpp's own converter knows published tokenizers alone. Run with an interpreter that has gguf and safetensors:
python write_gguf.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

MODULES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def write(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    describe(writer, config)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, value in load_file(folder / "model.safetensors").items():
        if name in OUTSIDE:
            writer.add_tensor(OUTSIDE[name], value)
            continue
        _, _, block, rest = name.split(".", 3)
        module, _, kind = rest.rpartition(".")
        turned = swap_halves(value, heads.get(module.rpartition(".")[2]))
        writer.add_tensor(f"blk.{block}.{MODULES[module]}.{kind}", np.ascontiguousarray(turned))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def describe(writer: gguf.GGUFWriter, config: dict) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    size = config["vocab_size"]
    writer.add_vocab_size(size)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<{number}>" for number in range(size)])
    writer.add_token_scores([0.0] * size)
    writer.add_token_types([gguf.TokenType.NORMAL] * size)
    writer.add_eos_token_id(config["eos_token_id"])


def swap_halves(value: np.ndarray, heads: int | None) -> np.ndarray:
    """Order rows as llama.cpp's RoPE does: it turns neighbours, where transformers turns halves of a head."""
    if heads is None:
        return value
    return value.reshape(heads, 2, len(value) // heads // 2, -1).swapaxes(1, 2).reshape(value.shape)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
