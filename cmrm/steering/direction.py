"""Labelled directions: mean hidden state of harmful anchors minus that of harmless ones, and principal directions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from types import MappingProxyType

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cmrm.errors import UserError
from cmrm.steering.settings import MOST_COMPONENTS
from cmrm.steering.shift import sort_header

DIRECTION = "harmful_minus_harmless"
# Raised when a file's tensors or metadata change their meaning.
FILE_VERSION = "1"
# Smaller eigenvalues, relative to the largest, are rounding: float64 sums of squares keep about 15 digits.
SMALLEST_EIGENVALUE = 1e-12


@dataclass(frozen=True, kw_only=True)
class LabelledDirection:
    """The means of labelled states at some blocks, float32 [blocks, hidden] each, at the last prompt token.

    `components` are the principal directions of the harmful states about the harmless mean, orthonormal, float32
    [blocks, k, hidden], the first with the sign of the difference. `made_from` says what it was measured on.
    """

    harmful: Tensor
    harmless: Tensor
    components: Tensor
    blocks: tuple[int, ...]
    made_from: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def difference(self) -> Tensor:
        """R = mean of harmful − mean of harmless, float32 [blocks, hidden]."""
        return self.harmful - self.harmless

    @property
    def unit(self) -> Tensor:
        """R as unit vectors; raises `UserError` where the two means are equal."""
        lengths = self.difference.norm(dim=-1, keepdim=True)
        if (lengths == 0).any():
            block = self.blocks[int(lengths.flatten().argmin())]
            raise UserError(
                f"interventions: harmful and harmless anchors have the same mean state at block {block}, so there is "
                "no direction; choose other blocks."
            )
        return self.difference / lengths

    def choose(self, blocks: Sequence[int]) -> LabelledDirection:
        """Restrict it to these blocks; raises `UserError` for a block that was not measured."""
        if absent := [block for block in blocks if block not in self.blocks]:
            raise UserError(
                f"interventions.blocks: no direction was measured at block {absent[0]}; measured blocks: "
                f"{list(self.blocks)}."
            )
        rows = [self.blocks.index(block) for block in blocks]
        return replace(
            self,
            harmful=self.harmful[rows],
            harmless=self.harmless[rows],
            components=self.components[rows],
            blocks=tuple(blocks),
        )

    def take_components(self, count: int) -> Tensor:
        """Take the first principal directions, float32 [blocks, count, hidden]; `UserError` if there are fewer."""
        if count > self.components.shape[1]:
            raise UserError(
                f"interventions.count: {count} directions were asked for, and {self.components.shape[1]} could be "
                "measured; give more harmful anchors, or a smaller count."
            )
        return self.components[:, :count]


class DirectionEstimator:
    """Estimates the labelled direction from states that arrive in batches.

    Memory is one [hidden, hidden] matrix a block, so give it one block at a time if the model is large.
    """

    def __init__(self, *, blocks: Sequence[int], hidden_size: int) -> None:
        self.blocks = tuple(blocks)
        shape = (len(self.blocks), hidden_size)
        self.counts = {True: 0, False: 0}
        self._sums = {label: torch.zeros(shape, dtype=torch.float64) for label in (True, False)}
        self._moments = torch.zeros(*shape, hidden_size, dtype=torch.float64)

    def add(self, states: Tensor, *, harmful: Sequence[bool]) -> None:
        """Add a batch of states [states, blocks, hidden] with their labels; `ValueError` if one is not finite."""
        if not torch.isfinite(states).all():
            raise ValueError("a state is not finite: quarantine such anchors before measuring a direction")
        for label in (True, False):
            chosen = states[[row for row, one in enumerate(harmful) if one == label]].double().cpu()
            self.counts[label] += len(chosen)
            self._sums[label] += chosen.sum(dim=0)
            if label:
                at_blocks = chosen.transpose(0, 1)
                self._moments += at_blocks.transpose(1, 2) @ at_blocks

    def finish(self, **made_from: str) -> LabelledDirection:
        """Compute the means and the principal directions; `UserError` without anchors of both labels."""
        for label, word in ((True, "harmful"), (False, "harmless")):
            if self.counts[label] == 0:
                raise UserError(
                    f"anchors.from: no {word} anchor has hidden states, and a labelled direction needs both; name a "
                    "data set of each label."
                )
        count = self.counts[True]
        harmful, harmless = (self._sums[label] / self.counts[label] for label in (True, False))
        # Σ (h − m)(h − m)ᵀ about the harmless mean m, from Σ h hᵀ and Σ h.
        total, mean = self._sums[True][:, :, None], harmless[:, None, :]
        about = self._moments - total @ mean - (total @ mean).transpose(1, 2)
        about += count * mean.transpose(1, 2) @ mean
        values, vectors = torch.linalg.eigh(about)
        # Equal anchors span fewer directions than there are anchors; the others would be arbitrary.
        spanned = int((values > SMALLEST_EIGENVALUE * values[:, -1:]).sum(dim=1).min())
        found = min(MOST_COMPONENTS, count, spanned)
        components = vectors.flip(-1)[:, :, :found].transpose(1, 2)
        signs = (components @ (harmful - harmless)[:, :, None]).sign()
        return LabelledDirection(
            harmful=harmful.float(),
            harmless=harmless.float(),
            components=(components * torch.where(signs == 0, 1, signs)).float(),
            blocks=self.blocks,
            made_from=MappingProxyType(made_from),
        )


def join_directions(directions: Sequence[LabelledDirection]) -> LabelledDirection:
    """Join directions of the same anchors at different blocks into one, blocks in the order given.

    It has as many principal directions as the block with the fewest.
    """
    count = min(one.components.shape[1] for one in directions)
    return replace(
        directions[0],
        harmful=torch.cat([one.harmful for one in directions]),
        harmless=torch.cat([one.harmless for one in directions]),
        components=torch.cat([one.components[:, :count] for one in directions]),
        blocks=tuple(block for one in directions for block in one.blocks),
    )


def serialize_direction(found: LabelledDirection) -> bytes:
    """Serialize a labelled direction to safetensors, with its sign in the metadata."""
    metadata = {
        **found.made_from,
        "schema_version": FILE_VERSION,
        "direction": DIRECTION,
        "blocks": json.dumps(list(found.blocks)),
    }
    tensors = {
        "harmful": found.harmful.contiguous(),
        "harmless": found.harmless.contiguous(),
        "components": found.components.contiguous(),
        "blocks": torch.tensor(found.blocks),
    }
    return sort_header(save(tensors, metadata=metadata))


def load_direction(path: str | PathLike[str]) -> LabelledDirection:
    """Load a labelled direction from safetensors; `UserError` if the file is damaged or of another version or sign."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            harmful, harmless, components = (
                file.get_tensor(name) for name in ("harmful", "harmless", "components")
            )
            blocks = file.get_tensor("blocks").tolist()
    except (SafetensorError, OSError) as error:
        raise UserError(f"direction: {path} cannot be read ({error}); measure it again.") from None
    for name, wanted in (("schema_version", FILE_VERSION), ("direction", DIRECTION)):
        if (said := metadata.pop(name, None)) != wanted:
            raise UserError(f"direction: {path} has {name} {said!r}, not {wanted!r}; measure it again.")
    # The numbers are a tensor as well; in the metadata they are for other readers.
    metadata.pop("blocks", None)
    return LabelledDirection(
        harmful=harmful,
        harmless=harmless,
        components=components,
        blocks=tuple(blocks),
        made_from=MappingProxyType(metadata),
    )
