"""Whether a text backbone can carry a bias at `mlp.down_proj` in transformers, and under which config.

Of transformers' backbones Llama alone reads one (`mlp_bias`, also of gate and up). Mistral and Qwen2 compute the same
as Llama where RoPE is plain, queries and keys are not normalized and no window slides: there the config may say Llama.
Others would drop the bias without a word, and are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from cmrm.errors import UserError

INSTEAD = "use --to gguf, easysteer or peft, or serve it by cmrm itself"
# Which fields say the same in a Llama config.
KEPT = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps", "use_cache", "pad_token_id",
    "bos_token_id", "eos_token_id", "tie_word_embeddings", "rope_parameters", "attention_dropout", "head_dim",
)  # fmt: skip
_NORM = "a norm follows down_proj and would rescale a bias"
# Whose blocks change what down_proj gives before it joins the residual stream, so that a bias is no constant shift.
RESCALING: Mapping[str, str] = MappingProxyType(
    {
        "exaone4": _NORM,
        "gemma2": _NORM,
        "gemma3_text": _NORM,
        "gemma4_text": _NORM,
        "gemma4_unified_text": _NORM,
        "glm4v_text": _NORM,
        "glm_ocr_text": _NORM,
        "mllama_text_model": "a gate scales down_proj in some blocks, which are skipped without an image",
    }
)
# Why others cannot carry one, where there is more to it than that their code has no such bias.
REASONS: Mapping[str, str] = MappingProxyType(
    {
        **RESCALING,
        "qwen3": "queries and keys are normalized, so it is no Llama under another name",
        "qwen2_vl_text": "its positions have three axes (M-RoPE), so it is no Llama under another name",
        "qwen2_5_vl_text": "its positions have three axes (M-RoPE), so it is no Llama under another name",
        "qwen3_vl_text": "queries and keys are normalized, so it is no Llama under another name",
        "cohere2": "attention and MLP are parallel, so it is no Llama under another name",
        "llama4_text": "its MLPs are experts, so that no one bias is added to a block's output",
    }
)


@dataclass(frozen=True, kw_only=True)
class BiasPlan:
    """How a backbone carries the bias: the new `text_config`, and the biases of zeros that come with it, by module."""

    text_config: Mapping[str, Any]
    zeros: tuple[str, ...]
    relabelled: str | None = None


def plan_bias(raw: Mapping[str, Any], text: Any, *, where: str) -> BiasPlan:
    """Plan the bias of a model; `raw` is its `text_config` as in config.json, `text` the same as transformers reads it.

    Raises `UserError`, with the reason, for a backbone that cannot carry one.
    """
    kind = str(text.model_type)
    zeros = ("mlp.gate_proj", "mlp.up_proj")
    if kind == "llama":
        known = bool(getattr(text, "mlp_bias", False))
        return BiasPlan(text_config={**raw, "mlp_bias": True}, zeros=() if known else zeros)
    if kind not in {"mistral", "qwen2"}:
        reason = REASONS.get(kind, "its code in transformers has no bias at down_proj")
        raise _refuse(kind, reason, where)
    if reasons := list(_list_differences(text)):
        raise _refuse(kind, "; ".join(reasons), where)
    return BiasPlan(
        text_config=_relabel(raw, text),
        zeros=(*zeros, "self_attn.o_proj") if kind == "qwen2" else zeros,
        relabelled=kind,
    )


def _list_differences(text: Any) -> Iterator[str]:
    """List in what a Mistral or Qwen2 backbone differs from Llama."""
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default" or "mrope_section" in rope:
        yield f"its RoPE is not plain ({rope.get('rope_type')})"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        yield "its RoPE turns a part of each head only"
    window = getattr(text, "sliding_window", None)
    slides = "sliding_attention" in (getattr(text, "layer_types", None) or ())
    if slides or (text.model_type == "mistral" and window and window < text.max_position_embeddings):
        yield f"its attention has a sliding window of {window} tokens"
    if getattr(text, "use_qk_norm", False):
        yield "queries and keys are normalized"


def _relabel(raw: Mapping[str, Any], text: Any) -> dict[str, Any]:
    from transformers import LlamaConfig

    fields = {name: getattr(text, name) for name in KEPT if getattr(text, name, None) is not None}
    made = LlamaConfig(**fields, mlp_bias=True, attention_bias=text.model_type == "qwen2").to_dict()
    # Readers build the class that is named here, whatever the type says.
    made["architectures"] = ["LlamaForCausalLM"]
    # Older readers look for them beside rope_parameters.
    old = {name: raw[name] for name in ("rope_theta", "torch_dtype", "dtype") if name in raw}
    return {name: value for name, value in made.items() if name != "transformers_version"} | old


def _refuse(kind: str, reason: str, where: str) -> UserError:
    return UserError(
        f"--to checkpoint: the text backbone of {where} ({kind}) cannot carry a bias at down_proj: {reason}. A bias "
        f"would be dropped without a word; {INSTEAD}."
    )
