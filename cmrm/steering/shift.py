"""The shift Δ: hidden state with a meaningless image minus hidden state without, mean over anchors or per sample."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cmrm.errors import UserError
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prefix.planner import Prefixes
from cmrm.prompts.conditions import Prompt
from cmrm.steering.capture import embed
from cmrm.steering.settings import Method

# Written into every file of a Δ and checked on loading: the paper's own equations disagree about the sign.
DIRECTION = "image_minus_text"
CONVENTION = (
    "delta = state(x, meaningless image) - state(x); ideal = state - alpha * delta; output of a decoder block"
)
# The entry of `made_from` that says what the vision tower saw of the image: a JSON object.
STIMULUS = "stimulus"
# Raised when a file's tensors or metadata change their meaning.
FILE_VERSION = "1"


@dataclass(frozen=True, kw_only=True)
class Shift:
    """A dataset-level Δ: `delta` is float32 [blocks, hidden], row i belonging to decoder block `blocks[i]`.

    `count` is the number of anchors in the mean; `made_from` says what it was measured on (model, anchors, image).

    >>> import cmrm, torch
    >>> shift = cmrm.Shift(delta=torch.ones(2, 128), blocks=(6, 7), count=1)
    >>> tuple(shift.choose([7]).shape)
    (1, 128)
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
    """Running mean of differences that arrive in batches; memory is one Δ, whatever the number of anchors."""

    def __init__(self, *, blocks: Sequence[int], hidden_size: int) -> None:
        self.blocks = tuple(blocks)
        self.count = 0
        self._total = torch.zeros(len(self.blocks), hidden_size, dtype=torch.float64)

    def add(self, with_image: Tensor, text_only: Tensor) -> None:
        """Add a batch of pairs, each [pairs, blocks, hidden]; row i of both is the same anchor."""
        if with_image.shape != text_only.shape or with_image.shape[1:] != self._total.shape:
            raise ValueError(
                f"pairs of shape {tuple(with_image.shape)} and {tuple(text_only.shape)} do not fit Δ"
            )
        difference = with_image.double() - text_only.double()
        if not torch.isfinite(difference).all():
            raise ValueError("a state is not finite: quarantine such anchors before measuring Δ")
        self._total += difference.sum(dim=0).cpu()
        self.count += with_image.shape[0]

    def finish(self, **made_from: str) -> Shift:
        """Compute the dataset-level Δ (paper: Δ_dataset); `UserError` without an anchor."""
        if self.count == 0:
            raise UserError("anchors: none is left to measure Δ on; give a larger share in anchors.from.")
        delta = (self._total / self.count).float()
        return Shift(delta=delta, blocks=self.blocks, count=self.count, made_from=MappingProxyType(made_from))


class PrincipalShift:
    """First principal component (PCA) of differences that arrive in batches, scaled to their mean's projection on it.

    The differences are not centred: Δ is what they share. Memory is one [hidden, hidden] matrix a block, so give it
    one block at a time if the model is large.
    """

    def __init__(self, *, blocks: Sequence[int], hidden_size: int) -> None:
        self._mean = ShiftMean(blocks=blocks, hidden_size=hidden_size)
        self._moments = torch.zeros(len(self._mean.blocks), hidden_size, hidden_size, dtype=torch.float64)

    def add(self, with_image: Tensor, text_only: Tensor) -> None:
        """Add a batch of pairs, each [pairs, blocks, hidden]; row i of both is the same anchor."""
        self._mean.add(with_image, text_only)
        difference = (with_image.double() - text_only.double()).cpu().transpose(0, 1)
        self._moments += difference.transpose(1, 2) @ difference

    def finish(self, **made_from: str) -> Shift:
        """Compute Δ of each block, with the sign of the mean; `UserError` without an anchor."""
        mean = self._mean.finish(**made_from)
        delta = torch.stack(
            [_project(row.double(), moment) for row, moment in zip(mean.delta, self._moments, strict=True)]
        )
        return replace(mean, delta=delta.float())


def _project(mean: Tensor, moment: Tensor) -> Tensor:
    """Project the mean onto the leading eigenvector of the second moment [hidden, hidden]."""
    direction = torch.linalg.eigh(moment).eigenvectors[:, -1]
    return (mean @ direction) * direction


def make_estimator(method: Method, *, blocks: Sequence[int], hidden_size: int) -> ShiftMean | PrincipalShift:
    """Make the estimator of the dataset-level Δ: mean difference (the paper's), or first principal component."""
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
    """Measure the sample-level Δ (paper: Δ_sample) of each question: float32 [prompts, blocks, hidden].

    It takes two forward passes, of the image prompts and of the text prompts. With `prefixes`, each of them prefills
    shared prefixes once, as in `embed`.
    """
    return embed(vlm, with_image, blocks=blocks, prefixes=prefixes) - embed(
        vlm, text_only, blocks=blocks, prefixes=prefixes
    )


def write_stimulus(shown: Mapping[str, Any]) -> dict[str, str]:
    """Write what the vision tower saw of the meaningless image as an entry of `made_from`; none if it is not known."""
    return {STIMULUS: json.dumps(dict(shown), sort_keys=True)} if shown else {}


def serialize_shift(shift: Shift) -> bytes:
    """Serialize Δ to safetensors: `delta` float32 [blocks, hidden], `blocks` int64 [blocks], direction in metadata."""
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
    return sort_header(save(tensors, metadata=metadata))


def sort_header(data: bytes) -> bytes:
    """Sort the JSON header of a safetensors file: the library writes metadata in another order each time."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def load_shift(path: str | PathLike[str]) -> Shift:
    """Load a Δ from safetensors; `UserError` if the file is damaged, or its direction is missing or the opposite.

    `path` is a safetensors file that `save_shift` or a run (its store's `shifts/`) has written.

    >>> import cmrm, torch
    >>> cmrm.save_shift(cmrm.Shift(delta=torch.ones(2, 128), blocks=(6, 7), count=1), "delta.safetensors")
    >>> cmrm.load_shift("delta.safetensors").blocks
    (6, 7)
    """
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
