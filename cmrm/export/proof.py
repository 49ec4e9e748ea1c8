"""Hold a loaded export against hooks on its source: logits at every position, and the canary's answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cmrm.export.canary import judge_readings
from cmrm.export.format import ExportError
from cmrm.export.local import answer_locally
from cmrm.export.reference import Reference, read_at_block
from cmrm.export.request import ExportRequest
from cmrm.export.served import Served, read_served
from cmrm.models.vlm import VisionLanguageModel

# The largest difference of a logit, relative to the largest logit of its prompt. A hook rounds state and shift
# together, and a bias is rounded with the projection, so half precision differs by a few units in the last place.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
# The mean difference from hooks, relative to that of plain logits from hooks.
MOST_LEFT = 0.25
# Below this share the bias is lost in the dtype's rounding.
LEAST_SHARE = 0.5


def compare_with_hooks(
    vlm: VisionLanguageModel, request: ExportRequest, reference: Reference
) -> tuple[str, ...]:
    """Compare an export with hooks on its source; lines on what was found. Raises `ExportError` if they differ."""
    found, shares = [], []
    first = request.shift.blocks[0]
    added = request.shift.added[0].double()
    for probe in reference.probes:
        logits, states = read_at_block(vlm, probe.prompt, first)
        found.append(logits)
        if added.any():
            shares.append(((states - probe.states).double() @ added / (added @ added)).mean())
    said = compare_logits(found, reference)
    share = float(torch.stack(shares).mean()) if shares else 1.0
    name = _name_dtype(reference)
    if not share >= LEAST_SHARE:
        raise ExportError(
            f"export: {share:.0%} of the shift survives the rounding of states to {name}; give --dtype float32."
        )
    answers = [
        answer_locally(vlm, prompt, max_tokens=prompt.differ_at + 1) for prompt in reference.canary.prompts
    ]
    return (
        said,
        f"{share:.1%} of the shift survives the rounding of states to {name} (block {first}).",
        compare_answers(answers, reference),
    )


def compare_logits(found: Sequence[Tensor], reference: Reference) -> str:
    """Compare an export's logits of each probe, float32 [tokens, vocabulary], with those under hooks; a line on it.

    Raises `ExportError` if they differ.
    """
    far: list[float] = []
    mean: list[float] = []
    for logits, probe in zip(found, reference.probes, strict=True):
        far.append(_relate(logits, probe.steered))
        moved = (probe.plain - probe.steered).abs().mean()
        mean.append(float((logits - probe.steered).abs().mean() / moved) if moved else 0.0)
    # Python's max() passes over NaN.
    worst, left = (float(torch.tensor(one).max()) for one in (far, mean))
    said = (
        f"at {sum(map(len, found))} positions of {len(found)} prompts, logits differ from hooks' by at most "
        f"{worst:.1e} of the largest one ({_name_dtype(reference)}; tolerated: {TOLERANCE[reference.dtype]:.0e}), and "
        f"on average by {left:.1e} of what the shift moves them (tolerated: {MOST_LEFT:g})"
    )
    if not worst <= TOLERANCE[reference.dtype] or not left <= MOST_LEFT:
        raise ExportError(f"export: what was written, loaded again, is not the steered model: {said}.")
    return f"{said[0].upper()}{said[1:]}."


def compare_answers(answers: Sequence[Served], reference: Reference) -> str:
    """Read an export's answers to the canary; a line on it. Raises `ExportError` unless all are the steered model's."""
    prompts = reference.canary.prompts
    reading = judge_readings([read_served(*pair) for pair in zip(answers, prompts, strict=True)])
    if reading != "steered":
        raise ExportError(f"export: by its canary, what was written and loaded again is {reading}.")
    return f"All {len(prompts)} prompts of the canary are answered as by hooks."


def _name_dtype(reference: Reference) -> str:
    return str(reference.dtype).removeprefix("torch.")


def _relate(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())
