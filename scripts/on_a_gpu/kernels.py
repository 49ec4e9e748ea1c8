"""Attention: states under each implementation and kernel against eager attention, and what each takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

from speed_alternatives import KERNELS
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from cmrm.models.attention import PACKAGES
from cmrm.models.prompt_states import choose_tolerance
from cmrm.prompts.conditions import Prompt
from cmrm.steering.capture import embed
from on_a_gpu import naive
from on_a_gpu.checks import Evidence, Table
from on_a_gpu.machine import time_calls
from on_a_gpu.subject import Subject

EAGER, SDPA = "cmrm, eager", "cmrm, SDPA"


@dataclass(frozen=True, kw_only=True)
class Attention:
    """A way to attend: the context to be in, and what reads the states in it."""

    within: Callable[[], AbstractContextManager[object]]
    read: Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The states and seconds of a batch by one attention, or why it could not be used."""

    states: Tensor | None = None
    seconds: float = 0.0
    reason: str = ""


def check_kernels(subject: Subject) -> Evidence:
    """Read the same states by eager attention, SDPA as torch chooses, each of its kernels, and FlashAttention."""
    prompts = ask_one_question(subject)
    found = {name: _measure(subject, one) for name, one in list_attentions(subject, prompts).items()}
    eager, usual = found[EAGER], found[SDPA]
    if eager.states is None or usual.states is None:
        return Evidence(line="nothing to compare", wrong=[eager.reason or usual.reason])
    allowed = choose_tolerance(subject.dtype)
    apart = {
        name: naive.measure_distance(one.states, eager.states)
        for name, one in found.items()
        if one.states is not None
    }
    missing = [name for name in found if name not in apart]
    ratio = usual.seconds / eager.seconds
    return Evidence(
        line=(
            f"{len(apart)} of {len(found)} can be used, states at most {max(apart.values()):.1e} from eager's; "
            f"cmrm's time by SDPA is {ratio:.2f} of that by eager"
            + (f"; not possible here: {', '.join(missing)}" if missing else "")
        ),
        figures={
            "allowed": allowed,
            "sdpa_over_eager": ratio,
            "attentions": {
                name: {"apart": apart.get(name), "seconds": one.seconds or None, "reason": one.reason}
                for name, one in found.items()
            },
        },
        tables=[
            Table(
                title=f"States of {len(prompts)} prompts of one length by each attention",
                cells=[
                    ["attention", "seconds", "of eager's", "distance", "why not"],
                    *(_write_row(name, one, eager, apart) for name, one in found.items()),
                ],
                right=(1, 2, 3),
                notes=[
                    f"The largest relative distance to eager's states at all blocks; allowed: {allowed:.0e}.",
                    "A kernel of SDPA is asked for alone, of plain transformers without padding: where it cannot "
                    "take the model's masks, dtype or head width, torch refuses.",
                ],
            )
        ],
        wrong=[f"{name}: states {far:.1e} apart" for name, far in apart.items() if not far <= allowed],
    )


def _write_row(name: str, one: Measured, eager: Measured, apart: dict[str, float]) -> list[str]:
    if one.states is None:
        return [name, "not possible", "", "", one.reason]
    return [name, f"{one.seconds:.4f}", f"{one.seconds / eager.seconds:.2f}", f"{apart[name]:.1e}", ""]


def ask_one_question(subject: Subject) -> list[Prompt]:
    """One question on each picture: without padding no mask is needed, which some kernels cannot take."""
    return [replace(prompt, text=subject.questions[0]) for prompt in subject.pictured]


def list_attentions(subject: Subject, prompts: Sequence[Prompt]) -> dict[str, Attention]:
    """What can be asked for, by name."""
    vlm = subject.vlm
    own = partial(embed, vlm, prompts, blocks=subject.blocks)
    plain = partial(naive.read_states, vlm, prompts, size=len(prompts))
    asked = {
        EAGER: Attention(within=partial(attending, vlm.model, "eager"), read=own),
        SDPA: Attention(within=partial(attending, vlm.model, "sdpa"), read=own),
    }
    for name, (package, _source) in PACKAGES.items():
        within = partial(attending, vlm.model, name) if find_spec(package) else partial(refuse, package)
        asked[f"cmrm, {name}"] = Attention(within=within, read=own)
    for name, kernel in KERNELS[subject.device.type].items():
        asked[f"transformers, {name}"] = Attention(within=partial(sdpa_kernel, kernel), read=plain)
    return asked


@contextmanager
def attending(model: Any, implementation: str) -> Iterator[None]:
    """Let a model's parts attend by an implementation of transformers."""
    usual = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


def refuse(package: str) -> AbstractContextManager[None]:
    """Raise `ModuleNotFoundError` for a package that is not installed."""
    raise ModuleNotFoundError(f"{package} is not installed")


def _measure(subject: Subject, one: Attention) -> Measured:
    try:
        with one.within():
            states, seconds = time_calls(one.read, subject.device, turns=subject.sizes.timed)
    except (RuntimeError, ValueError, ImportError) as error:
        return Measured(reason=(str(error).strip().splitlines() or [type(error).__name__])[0][:120])
    return Measured(states=states.cpu(), seconds=seconds)
