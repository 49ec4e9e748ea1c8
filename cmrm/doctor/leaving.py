"""Checks of what steering leaves alone and leaves behind: the vision tower, and no hook."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cmrm.capture import SteeringHook, capture_states
from cmrm.doctor.answering import answer, answer_steered
from cmrm.doctor.patient import CheckFailedError, Patient
from cmrm.model import last_prompt_positions, render
from cmrm.steering import Intervention, steer


def check_vision_tower(patient: Patient) -> str:
    """What runs before the language model gives the same with and without steering, and bears no hook of it."""
    vlm, blocks = patient.vlm, patient.blocks
    inputs = render(vlm, patient.pictured)
    intervention = Intervention(delta=patient.draw_shift(blocks), alpha=1.0, blocks=blocks, scope="all")
    plain = _watch_outside(patient, inputs)
    with steer(vlm, intervention, input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]):
        steered = _watch_outside(patient, inputs)
        hooked = [
            name
            for name, module in vlm.model.named_modules()
            if module not in vlm.blocks and any(isinstance(hook, SteeringHook) for hook in _hooks(module))
        ]
    if hooked:
        raise CheckFailedError(f"{hooked[0]} is steered and is no decoder block")
    if not plain:
        raise CheckFailedError("nothing ran before the language model, so nothing was tried")
    if plain.keys() != steered.keys():
        raise CheckFailedError("other parts ran under steering than without it")
    if changed := [name for name in plain if not _equal(plain[name], steered[name])]:
        raise CheckFailedError(f"the output of {changed[0]} changed under steering")
    return f"unchanged: {', '.join(name.rpartition('.')[2] for name in plain)}"


def check_unload(patient: Patient) -> str:
    """Reading and steering leave no hook behind, after an error neither, and the answers are the old ones."""
    vlm, blocks = patient.vlm, patient.blocks
    inputs = render(vlm, patient.pictured)
    mask = inputs["attention_mask"]
    before, plain = _count_hooks(vlm.model), answer_steered(vlm, patient.pictured, None)
    intervention = Intervention(delta=patient.draw_shift(blocks), alpha=1.0, blocks=blocks)
    for error in (None, _StopError()):
        try:
            with (
                capture_states(vlm, blocks=blocks, positions=last_prompt_positions(mask)),
                steer(vlm, intervention, input_ids=inputs["input_ids"], attention_mask=mask),
            ):
                answer(vlm, inputs, use_cache=True)
                if error is not None:
                    raise error
        except _StopError:
            pass
        if (left := _count_hooks(vlm.model) - before) != 0:
            raise CheckFailedError(f"{left} hooks are left{' after an error' if error else ''}")
    if not torch.equal(plain.tokens, answer_steered(vlm, patient.pictured, None).tokens):
        raise CheckFailedError("the answers are others than before the model was steered")
    return "no hook is left; answers as before"


class _StopError(Exception):
    """Raised inside the context managers on purpose."""


def _watch_outside(patient: Patient, inputs: Any) -> dict[str, list[Tensor]]:
    """Outputs of the largest modules without a part in the decoder, as far as they run before it, by name.

    They are copied off the devices: a tower's may take gigabytes, and lie on several.
    """
    vlm, seen, running = patient.vlm, dict[str, list[Tensor]](), []
    handles = [vlm.decoder.register_forward_pre_hook(lambda *_: running.append(True))]

    def watch(name: str) -> Any:
        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            if not running:
                seen[name] = [tensor.to("cpu", copy=True) for tensor in _tensors(output)]

        return keep

    handles += [module.register_forward_hook(watch(name)) for name, module in _find_outside(patient)]
    try:
        with torch.inference_mode():
            vlm.model.base_model(**inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _find_outside(patient: Patient) -> Iterator[tuple[str, nn.Module]]:
    inside = set(patient.vlm.decoder.modules())
    found: set[nn.Module] = set()
    for name, module in patient.vlm.model.named_modules():
        own = set(module.modules())
        if module not in found and not own & inside:
            found |= own
            yield name, module


def _equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(one, other) for one, other in zip(first, second, strict=True)
    )


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for one in output.values():
            yield from _tensors(one)
    elif isinstance(output, (tuple, list)):
        for one in output:
            yield from _tensors(one)


def _hooks(module: nn.Module) -> Iterator[object]:
    yield from module._forward_hooks.values()
    yield from module._forward_pre_hooks.values()


def _count_hooks(model: nn.Module) -> int:
    return sum(len(list(_hooks(module))) for module in model.modules())
