"""Checks of side effects: steering changes no module outside the decoder and leaves no forward hook behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cmrm.doctor.answering import answer, answer_plainly, answer_steered
from cmrm.doctor.fixture import CheckFailedError, ModelFixture
from cmrm.models.vlm import last_prompt_positions
from cmrm.steering.capture import SteeringHook, capture_states
from cmrm.steering.hooks import steer
from cmrm.steering.intervention import Intervention


def check_vision_tower(fixture: ModelFixture) -> str:
    """Modules before the first block, such as the vision tower, get no hook and give the same output when steered."""
    vlm, blocks = fixture.vlm, fixture.blocks
    inputs = fixture.render(fixture.pictured)
    intervention = Intervention(delta=fixture.draw_shift(blocks), alpha=1.0, blocks=blocks, scope="all")
    outside = _find_outside(fixture, inputs)
    plain = _record_outside(fixture, inputs, outside)
    with steer(vlm, intervention, input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]):
        steered = _record_outside(fixture, inputs, outside)
        hooked = [
            name
            for name, module in vlm.model.named_modules()
            if module not in vlm.blocks and any(isinstance(hook, SteeringHook) for hook in _hooks(module))
        ]
    if hooked:
        raise CheckFailedError(f"{hooked[0]} has a steering hook but is no decoder block")
    if not plain:
        raise CheckFailedError("no module ran before the first block, so this check tested nothing")
    if plain.keys() != steered.keys():
        raise CheckFailedError("steering changed which modules run before the first block")
    if changed := [name for name in plain if not _equal(plain[name], steered[name])]:
        raise CheckFailedError(f"the output of {changed[0]} changed under steering")
    return f"unchanged: {', '.join(name.rpartition('.')[2] for name in plain)}"


def check_unload(fixture: ModelFixture) -> str:
    """Extracting states and steering leave no hook behind, even after an error, and answers are as before."""
    vlm, blocks = fixture.vlm, fixture.blocks
    inputs = fixture.render(fixture.pictured)
    mask = inputs["attention_mask"]
    before, plain = _count_hooks(vlm.model), answer_plainly(fixture, fixture.pictured)
    intervention = Intervention(delta=fixture.draw_shift(blocks), alpha=1.0, blocks=blocks)
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
            raise CheckFailedError(f"{left} forward hooks remain{' after an error' if error else ''}")
    if not torch.equal(plain.tokens, answer_steered(fixture, fixture.pictured, None).tokens):
        raise CheckFailedError("the answers differ from those before steering")
    return "no forward hook remains; answers as before"


class _StopError(Exception):
    """Raised inside the context managers to test their cleanup."""


def _record_outside(
    fixture: ModelFixture, inputs: Any, outside: Sequence[tuple[str, nn.Module]]
) -> dict[str, list[Tensor]]:
    """Record the outputs of modules that run before the first block, by name.

    They are copied to the CPU: a vision tower's may take gigabytes, on several devices.
    """
    vlm, seen, running = fixture.vlm, dict[str, list[Tensor]](), []
    handles = [vlm.blocks[0].register_forward_pre_hook(lambda *_: running.append(True))]

    def watch(name: str) -> Any:
        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            if not running:
                seen[name] = [tensor.to("cpu", copy=True) for tensor in _tensors(output)]

        return keep

    handles += [module.register_forward_hook(watch(name)) for name, module in outside]
    try:
        with torch.inference_mode():
            vlm.model.base_model(**inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _find_outside(fixture: ModelFixture, inputs: Any) -> list[tuple[str, nn.Module]]:
    """Find the largest modules beside the blocks that are called, by one pass: a tower may be called by its parts."""
    called: set[nn.Module] = set()
    handles = [
        module.register_forward_pre_hook(lambda module, _arguments: called.add(module))
        for module in fixture.vlm.model.modules()
    ]
    try:
        with torch.inference_mode():
            fixture.vlm.model.base_model(**inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    inside = {module for block in fixture.vlm.blocks for module in block.modules()}
    covered: set[nn.Module] = set()
    found = []
    for name, module in fixture.vlm.model.named_modules():
        own = set(module.modules())
        if module in called and module not in covered and not own & inside:
            covered |= own
            found.append((name, module))
    return found


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
