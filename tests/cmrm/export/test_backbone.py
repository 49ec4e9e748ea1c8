"""Which text backbones carry a bias at down_proj, and which are refused with the reason."""

from __future__ import annotations

import pytest
from transformers import (
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen2VLTextConfig,
    Qwen3Config,
)

from cmrm.errors import UserError
from cmrm.export.backbone import plan_bias

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (Gemma3TextConfig(), "a norm follows down_proj"),
        (Qwen3Config(), "queries and keys are normalized"),
        (Qwen2VLTextConfig(), "M-RoPE"),
        (Phi3Config(pad_token_id=0), "no bias at down_proj"),
        (MistralConfig(sliding_window=4096, max_position_embeddings=32768), "sliding window of 4096"),
        (MistralConfig(sliding_window=None, rope_parameters=YARN), r"RoPE is not plain \(yarn\)"),
        (
            Qwen2Config(use_sliding_window=True, sliding_window=64, max_window_layers=1, num_hidden_layers=2),
            "sliding window of 64",
        ),
        (Qwen2Config(rope_parameters=YARN), r"RoPE is not plain \(yarn\)"),
    ],
    ids=lambda one: getattr(one, "model_type", ""),
)
def test_a_backbone_that_would_drop_or_change_the_bias_is_refused_with_the_reason(text, reason):
    with pytest.raises(UserError, match=reason) as caught:
        plan_bias(text.to_dict(), text, where="'it'")
    assert text.model_type in str(caught.value)
    assert "gguf" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "zeros"),
    [
        (LlamaConfig(), ("mlp.gate_proj", "mlp.up_proj")),
        (MistralConfig(sliding_window=None), ("mlp.gate_proj", "mlp.up_proj")),
        # A window as long as the model's positions never slides.
        (
            MistralConfig(sliding_window=4096, max_position_embeddings=4096),
            ("mlp.gate_proj", "mlp.up_proj"),
        ),
        (Qwen2Config(), ("mlp.gate_proj", "mlp.up_proj", "self_attn.o_proj")),
    ],
)
def test_a_backbone_that_carries_one_says_llama_with_all_that_decides_what_it_computes(text, zeros):
    plan = plan_bias(text.to_dict(), text, where="'it'")
    made = LlamaConfig(**plan.text_config)
    assert plan.zeros == zeros
    assert (made.model_type, made.mlp_bias) == ("llama", True)
    assert made.attention_bias is (text.model_type == "qwen2")
    assert made.head_dim == (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    for name in (
        "hidden_size",
        "num_key_value_heads",
        "rms_norm_eps",
        "rope_parameters",
        "tie_word_embeddings",
    ):
        assert getattr(made, name) == getattr(text, name)


def test_a_llama_that_has_such_biases_already_gets_no_further_zeros():
    text = LlamaConfig(mlp_bias=True)
    assert plan_bias(text.to_dict(), text, where="'it'").zeros == ()
