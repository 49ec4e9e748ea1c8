"""Inspect's generation options: what greedy decoding honours, and a refusal of all others, so that logs stay true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from inspect_ai.model import GenerateConfig

from cmrm.errors import UserError
from cmrm.untrusted.printable import show_value

HONOURED = frozenset(("max_tokens", "system_message"))
# Inspect sees to these itself, or they concern requests and tools that there are none of.
WITHOUT_EFFECT = frozenset(
    (
        "adaptive_connections",
        "attempt_timeout",
        "cache",
        "cache_prompt",
        "fail_on_refusal",
        "internal_tools",
        "max_connections",
        "max_retries",
        "max_tool_output",
        "parallel_tool_calls",
        "reasoning_history",
        "stream_idle_timeout",
        "timeout",
    )
)
# Values that say what greedy decoding does anyway.
GREEDY: Mapping[str, Any] = MappingProxyType(
    {
        "temperature": 0,
        "top_p": 1,
        "num_choices": 1,
        "best_of": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "logit_bias": {},
        "stop_seqs": [],
        "logprobs": False,
        "batch": False,
    }
)


def refuse_options(config: GenerateConfig) -> None:
    """Raise `UserError` for the first option that cannot be honoured."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        if value is None or name in HONOURED or name in WITHOUT_EFFECT:
            continue
        if name in GREEDY and value == GREEDY[name]:
            continue
        only = f"leave it out, or give {show_value(GREEDY[name])}" if name in GREEDY else "leave it out"
        raise UserError(
            f"{name} is {show_value(value)}, and cmrm decodes greedily, without it: the log would not be true; {only}."
        )


def refuse_tools(tools: Sequence[Any]) -> None:
    """Raise `UserError` if the model is to call tools."""
    if tools:
        raise UserError(
            "tools: cmrm's models answer and call no tools; use a task, or a solver such as generate(), without any."
        )
