"""The proof that steering acted: how many states were changed, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(kw_only=True)
class SteeringProof:
    """Per block: how many (row, token) states were steered (`acted`), and how far they moved.

    Filled while the model runs, for a batch or, in decoding, for each answer. The distances are those of the first
    pass that acted, the prefill: `asked` is the mean
    length of what was to be subtracted (αΔ, or a projection) in float32, `distance` the mean distance between the
    states before and after, rounded to the model's dtype, and `unmoved` counts the states that did not change though
    something was to be subtracted: a strength with no effect at this precision.

    >>> import cmrm, torch
    >>> vlm = cmrm.load_model("organism", dtype="float32", device="cpu")
    >>> with cmrm.steer(vlm, cmrm.Intervention(delta=torch.ones(1, 128), alpha=0.5, blocks=(7,))) as proofs:
    ...     states = cmrm.hidden_states(vlm, ["help me paint the fence."], blocks=[7])
    >>> proofs[0].acted, round(proofs[0].asked[7], 3)
    ({7: 1}, 5.657)
    """

    acted: dict[int, int] = field(default_factory=dict)
    asked: dict[int, float] = field(default_factory=dict)
    distance: dict[int, float] = field(default_factory=dict)
    unmoved: dict[int, int] = field(default_factory=dict)

    def note(self, block: int, measured: Tensor | None, *, acted: int, meant: bool) -> None:
        """Record what `measure_move` found at a block; `meant` if something was to be subtracted there in any case.

        Raises `RuntimeError` if no state moved though a state should have.
        """
        asked, distance, unmoved, failed = (0.0, 0.0, 0.0, meant) if measured is None else _sum_up(measured)
        self.acted[block], self.asked[block] = acted, asked
        self.distance[block], self.unmoved[block] = distance, int(unmoved)
        if failed:
            raise RuntimeError(
                f"the intervention never acted: no state moved at block {block}, though αΔ is not zero"
            )


def combine_proofs(proofs: Sequence[SteeringProof], blocks: Sequence[int]) -> SteeringProof:
    """Combine the proofs of answers to one prompt each into that of all; a block without an entry counts as 0."""
    count = max(1, len(proofs))
    return SteeringProof(
        acted={block: sum(one.acted.get(block, 0) for one in proofs) for block in blocks},
        asked={block: sum(one.asked.get(block, 0.0) for one in proofs) / count for block in blocks},
        distance={block: sum(one.distance.get(block, 0.0) for one in proofs) / count for block in blocks},
        unmoved={block: sum(one.unmoved.get(block, 0) for one in proofs) for block in blocks},
    )


def share_proof(proof: SteeringProof, *, rows: int) -> SteeringProof:
    """Share the proof of a batch out among its rows: each has an even part of what acted, and the mean distances.

    A row counts as unmoved where no state of the batch moved.
    """
    return SteeringProof(
        acted={block: count // rows for block, count in proof.acted.items()},
        asked=dict(proof.asked),
        distance=dict(proof.distance),
        unmoved={block: int(proof.distance[block] == 0 != asked) for block, asked in proof.asked.items()},
    )


def measure_move(before: Tensor, after: Tensor, change: Tensor) -> Tensor:
    """Measure how steering moved each state, on the device: float32 [3, …] for states […, hidden].

    The three are the distance between before and after, the latter rounded to the model's dtype; 1 if what was
    subtracted is too large to vanish in that rounding, else 0; and its length in float32.
    """
    distance = measure_length(before.float() - after.float())
    return torch.stack([distance, is_felt(before, change).float(), measure_length(change)])


def _sum_up(measured: Tensor) -> list[float]:
    """Sum up `measure_move` over all states: mean asked, mean distance, number unmoved, and 1 if one had to move."""
    distance, felt, asked = measured
    still = distance == 0
    unmoved, failed = (still & (asked != 0)).sum(), (still & (felt != 0)).any()
    # One copy from the device, which is a synchronization.
    return torch.stack([asked.mean(), distance.mean(), unmoved.float(), failed.float()]).tolist()


def is_felt(states: Tensor, change: Tensor) -> Tensor:
    """Whether a change is too large in some coordinate to vanish in rounding to the states' dtype: bool a state."""
    kind = torch.finfo(states.dtype)
    # Upper bound of the spacing between neighbouring floating-point numbers.
    spacing = (states.abs().float() * kind.eps).clamp(min=kind.tiny)
    return (change.abs() > spacing).any(dim=-1)


def measure_length(vectors: Tensor) -> Tensor:
    """Euclidean norms of vectors in float32, scaled so that squares of small numbers do not underflow."""
    kind = torch.finfo(torch.float32)
    largest = vectors.float().abs().amax(dim=-1, keepdim=True)
    return (vectors.float() / largest.clamp(kind.tiny, kind.max)).norm(dim=-1) * largest[..., 0]
