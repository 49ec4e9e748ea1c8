"""The shift Δ: state with a meaningless image minus state without, averaged over anchors or taken on one sample."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cmrm.capture import embed
from cmrm.conditions import Prompt
from cmrm.errors import UserError
from cmrm.interventions import Method
from cmrm.model import VisionLanguageModel
from cmrm.prefix import Prefixes

# Written into every file that holds a Δ and demanded on reading: the paper's own equations disagree about the sign.
DIRECTION = "image_minus_text"
CONVENTION = (
    "delta = state(x, meaningless image) - state(x); ideal = state - alpha * delta; output of a decoder block"
)
# Raised when a file's tensors or metadata change their meaning.
FILE_VERSION = "1"


@dataclass(frozen=True, kw_only=True)
class Shift:
    """A dataset-level Δ: `delta` is float32 [blocks, hidden], row i belonging to decoder block `blocks[i]`.

    `count` is the number of anchors in the mean; `made_from` says what it was measured on (model, anchors, image).
    """

    delta: Tensor
    blocks: tuple[int, ...]
    count: int
    made_from: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def choose(self, blocks: Sequence[int]) -> Tensor:
        """Rows of Δ for these blocks, float32 [len(blocks), hidden]; `UserError` for a block that was not measured."""
        absent = [block for block in blocks if block not in self.blocks]
        if absent:
            raise UserError(
                f"interventions.blocks: Δ was not measured at block {absent[0]}; measured blocks: {list(self.blocks)}."
            )
        return self.delta[[self.blocks.index(block) for block in blocks]]


class ShiftMean:
    """The mean of differences that arrive in batches; memory is one Δ, whatever the number of anchors."""

    def __init__(self, *, blocks: Sequence[int], hidden_size: int) -> None:
        self.blocks = tuple(blocks)
        self.count = 0
        self._total = torch.zeros(len(self.blocks), hidden_size, dtype=torch.float64)

    def add(self, with_image: Tensor, text_only: Tensor) -> None:
        """Add a batch of pairs, each [pairs, blocks, hidden], row i of both being the same anchor."""
        if with_image.shape != text_only.shape or with_image.shape[1:] != self._total.shape:
            raise ValueError(
                f"pairs of shape {tuple(with_image.shape)} and {tuple(text_only.shape)} do not fit Δ"
            )
        difference = with_image.double() - text_only.double()
        if not torch.isfinite(difference).all():
            raise ValueError("a state is not finite: set such anchors aside before measuring Δ")
        self._total += difference.sum(dim=0).cpu()
        self.count += with_image.shape[0]

    def finish(self, **made_from: str) -> Shift:
        """The dataset-level Δ (paper: Δ_dataset); `UserError` when there was no anchor."""
        if self.count == 0:
            raise UserError("anchors: none is left to measure Δ on; give a larger share in anchors.from.")
        delta = (self._total / self.count).float()
        return Shift(delta=delta, blocks=self.blocks, count=self.count, made_from=MappingProxyType(made_from))


class PrincipalShift:
    """The first principal component of differences that arrive in batches, as long as their mean is along it.

    The component is that of the differences themselves, not of their scatter about the mean: Δ is what they share.
    Memory is one [hidden, hidden] matrix a block, so give it a block at a time when the model is large.
    """

    def __init__(self, *, blocks: Sequence[int], hidden_size: int) -> None:
        self._mean = ShiftMean(blocks=blocks, hidden_size=hidden_size)
        self._moments = torch.zeros(len(self._mean.blocks), hidden_size, hidden_size, dtype=torch.float64)

    def add(self, with_image: Tensor, text_only: Tensor) -> None:
        """Add a batch of pairs, each [pairs, blocks, hidden], row i of both being the same anchor."""
        self._mean.add(with_image, text_only)
        difference = (with_image.double() - text_only.double()).cpu().transpose(0, 1)
        self._moments += difference.transpose(1, 2) @ difference

    def finish(self, **made_from: str) -> Shift:
        """Δ of each block, pointing the way the mean points; `UserError` when there was no anchor."""
        mean = self._mean.finish(**made_from)
        delta = torch.stack(
            [_project(row.double(), moment) for row, moment in zip(mean.delta, self._moments, strict=True)]
        )
        return replace(mean, delta=delta.float())


def _project(mean: Tensor, moment: Tensor) -> Tensor:
    """The part of the mean that lies along the leading eigenvector of the second moment [hidden, hidden]."""
    direction = torch.linalg.eigh(moment).eigenvectors[:, -1]
    return (mean @ direction) * direction


def make_estimator(method: Method, *, blocks: Sequence[int], hidden_size: int) -> ShiftMean | PrincipalShift:
    """What turns pairs into a dataset-level Δ: their mean difference (the paper's), or its principal direction."""
    estimator = ShiftMean if method == "mean" else PrincipalShift
    return estimator(blocks=blocks, hidden_size=hidden_size)


def join_blocks(shifts: Sequence[Shift]) -> Shift:
    """Join shifts of the same anchors at different blocks into one, blocks in the order given."""
    return replace(
        shifts[0],
        delta=torch.cat([shift.delta for shift in shifts]),
        blocks=tuple(block for shift in shifts for block in shift.blocks),
    )


def measure_sample_shift(
    vlm: VisionLanguageModel,
    *,
    with_image: Sequence[Prompt],
    text_only: Sequence[Prompt],
    blocks: Sequence[int],
    prefixes: Prefixes | None = None,
) -> Tensor:
    """Sample-level Δ (paper: Δ_sample) of each question, from two forward passes: float32 [prompts, blocks, hidden].

    With `prefixes`, what the prompts of an arm have in common is read once, as `embed` says.
    """
    return embed(vlm, with_image, blocks=blocks, prefixes=prefixes) - embed(
        vlm, text_only, blocks=blocks, prefixes=prefixes
    )


def serialize_shift(shift: Shift) -> bytes:
    """A safetensors file: `delta` float32 [blocks, hidden], `blocks` int64 [blocks], and the sign as text metadata."""
    metadata = {
        **shift.made_from,
        "schema_version": FILE_VERSION,
        "level": "dataset",
        "direction": DIRECTION,
        "convention": CONVENTION,
        "count": str(shift.count),
        "blocks": json.dumps(list(shift.blocks)),
    }
    tensors = {"delta": shift.delta.contiguous(), "blocks": torch.tensor(shift.blocks)}
    return _sort_header(save(tensors, metadata=metadata))


def _sort_header(data: bytes) -> bytes:
    """The same safetensors file with its header in order: the library writes metadata in another order each time."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def load_shift(path: Any) -> Shift:
    """Read a Δ; `UserError` when the file is damaged, says no direction, or says the other one."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            delta, blocks = file.get_tensor("delta"), file.get_tensor("blocks").tolist()
    except (SafetensorError, OSError) as error:
        raise UserError(f"shift: {path} cannot be read ({error}); measure it again.") from None
    version = metadata.pop("schema_version", None)
    if version != FILE_VERSION:
        raise UserError(
            f"shift: {path} has schema version {version} and this release reads {FILE_VERSION}; measure it "
            "again, or use the release that wrote it."
        )
    direction = metadata.pop("direction", None)
    if direction != DIRECTION:
        raise UserError(
            f"shift: {path} says direction {direction!r}, not {DIRECTION!r}: subtracting it would push the model the "
            "wrong way. Measure it again, or negate it and set the direction."
        )
    count = int(metadata.pop("count"))
    return Shift(delta=delta, blocks=tuple(blocks), count=count, made_from=MappingProxyType(metadata))
