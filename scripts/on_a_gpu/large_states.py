"""States beyond the range of float16, which real models have: what cmrm reads, averages, writes and answers of them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from cmrm.api.states import save_shift
from cmrm.decoding.api import generate_arms
from cmrm.prefix.planner import Prefixes
from cmrm.steering.capture import embed
from cmrm.steering.intervention import Intervention
from cmrm.steering.shift import Shift, ShiftMean, load_shift
from on_a_gpu import naive
from on_a_gpu.checks import Evidence
from on_a_gpu.subject import Subject, build_subject

LARGEST = torch.finfo(torch.float16).max
# How far beyond it the largest state is brought.
TIMES = 16


def check_large_states(subject: Subject) -> Evidence:
    """Scale what one block adds until states leave float16's range, in bfloat16, and put its weight back after."""
    if subject.dtype != torch.bfloat16:
        subject = build_subject(
            subject.name,
            subject.shape,
            device=subject.device,
            dtype=torch.bfloat16,
            sizes=subject.sizes,
            budget=subject.budget,
        )
    number = len(subject.vlm.blocks) // 3
    found = naive.read_states(subject.vlm, subject.pictured)
    # A power of two: the weight comes back to the bit.
    factor = 2.0 ** math.ceil(math.log2(TIMES * LARGEST / float(found.abs().max())))
    with scaled(find_output(subject.vlm.blocks[number]), factor):
        return _compare(subject, number)


def find_output(block: nn.Module) -> nn.Parameter:
    """The weight by which a block's MLP adds to the residual stream."""
    weight = block.get_submodule("mlp.down_proj").weight
    assert isinstance(weight, nn.Parameter)
    return weight


@contextmanager
def scaled(weight: nn.Parameter, factor: float) -> Iterator[None]:
    """Multiply a weight in place by a power of two, and divide it again."""
    with torch.no_grad():
        weight.mul_(factor)
    try:
        yield
    finally:
        with torch.no_grad():
            weight.div_(factor)


def _compare(subject: Subject, number: int) -> Evidence:
    vlm, prompts, blocks = subject.vlm, subject.pictured, subject.blocks
    wanted = naive.read_states(vlm, prompts)
    noise = naive.measure_distance(naive.read_states(vlm, prompts, size=len(prompts)), wanted)
    prefixes = Prefixes(vlm)
    states = embed(vlm, prompts, blocks=blocks, prefixes=prefixes)
    text = embed(vlm, subject.text, blocks=blocks, prefixes=prefixes)
    mean = ShiftMean(blocks=blocks, hidden_size=vlm.hidden_size)
    mean.add(embed(vlm, subject.blank, blocks=blocks, prefixes=prefixes), text)
    shift = mean.finish()
    written = _write_and_read(shift)
    chosen = tuple(block for block in subject.steered if block >= number)
    arm = Intervention(delta=shift.choose(chosen), alpha=1.0, blocks=chosen)
    answers = generate_arms(vlm, prompts, max_new_tokens=subject.sizes.new_tokens, arms=[None, arm])
    faults = sum(one.fault is not None for arm in answers for one in arm.answers)
    apart = naive.measure_distance(states, wanted)
    allowed = naive.choose_allowed(subject.dtype, noise)
    largest, beyond = float(states.abs().max()), int((wanted.abs() > LARGEST).sum())
    wrong = _list_wrong(
        {
            f"states are {apart:.1e} apart, and {allowed:.1e} is allowed": apart <= allowed,
            f"states are {states.dtype}": states.dtype == torch.float32,
            "states are not finite": bool(states.isfinite().all()),
            "no state left float16's range": beyond > 0,
            "Δ is not finite": bool(shift.delta.isfinite().all()),
            "Δ from its file is another": torch.equal(written, shift.delta),
            f"{faults} answers have NaN or inf in their logits": faults == 0,
        }
    )
    return Evidence(
        line=(
            f"states up to {largest:.3g} ({beyond} numbers beyond {LARGEST:,.0f}), read as float32 and finite, "
            f"{apart:.1e} from the naive hook's; Δ up to {float(shift.delta.abs().max()):.3g}, the same from its file"
        ),
        figures={
            "largest_state": largest,
            "numbers_beyond_float16": beyond,
            "largest_delta": float(shift.delta.abs().max()),
            "states_apart": apart,
            "allowed": allowed,
            "faulty_answers": faults,
        },
        wrong=wrong,
    )


def _write_and_read(shift: Shift) -> Tensor:
    """Δ as it comes back from a file of safetensors."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "delta.safetensors"
        save_shift(shift, path)
        return load_shift(path).delta


def _list_wrong(facts: dict[str, bool]) -> list[str]:
    return [what for what, right in facts.items() if not right]
