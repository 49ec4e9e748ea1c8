"""Samples that are answered together in several ways: prompts made ahead of the device, then each Δ found on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cmrm.conditions import Condition, Prompt
from tasks.generate_job import GenerateJob
from tasks.prompts import prepare_batch, quarantine_row
from tasks.samples import StoredSample
from tasks.steering import NOT_FINITE, choose_blocks, load_shift_once, make_intervention

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BatchFeature

    from cmrm.answering import Group
    from cmrm.model import VisionLanguageModel
    from cmrm.prefix import Prefixes
    from cmrm.steering import Intervention

Blocks = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A sample, and the numbers of the ways in which it is still to be answered."""

    stored: StoredSample
    ways: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A row of `quarantine`, and the numbers of the ways that it is for."""

    row: Mapping[str, Any]
    ways: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Samples with their prompts; for samples' own Δ also with each meaningless image, and as text alone.

    `rendered` are the prompts as the model takes them, where they have nothing in common that is to be read once.
    """

    asked: Sequence[Asked]
    prompts: Sequence[Prompt]
    meaningless: Mapping[Condition, Sequence[Prompt]]
    text_only: Sequence[Prompt]
    refused: Sequence[Refused]
    rendered: BatchFeature | None


@dataclass(frozen=True, kw_only=True)
class Steered:
    """A group for the model, its samples row by row, and the unit's number of each of its ways."""

    group: Group
    samples: Sequence[StoredSample]
    ways: Sequence[int]
    refused: Sequence[Refused]


class Groups:
    """Makes groups for the ways of one slice. Raises `UserError` for a block that the model does not have."""

    def __init__(self, jobs: Sequence[GenerateJob], vlm: VisionLanguageModel) -> None:
        from cmrm.renderer import Renderer

        self.renderer = Renderer(vlm)
        self._first = jobs[0]
        self._vlm = vlm
        self._steerings = [job.steering for job in jobs]
        self._blocks: list[Blocks] = [
            () if one is None else choose_blocks(vlm, one.blocks) for one in self._steerings
        ]
        self._fixed: dict[int, Intervention | None] = {
            way: None
            if one is None
            else make_intervention(
                one, load_shift_once(self._first.store, one.shift).choose(blocks).to(vlm.device), blocks
            )
            for way, (one, blocks) in enumerate(zip(self._steerings, self._blocks, strict=True))
            if one is None or one.shift is not None
        }

    def prepare(self, batch: Sequence[Asked]) -> Prepared:
        """Open images, make prompts and render them; in a thread of its own, beside the model's work."""
        job, showing = self._first, self._first.showing
        ways = {one.stored.sample.id: one.ways for one in batch}
        samples = [one.stored for one in batch]
        shown = prepare_batch(self.renderer, showing, samples, job.slice.condition, stage=job.stage)
        asked = [Asked(stored=one, ways=ways[one.sample.id]) for one in shown.samples]
        images = self._measured_images(asked)
        return Prepared(
            asked=asked,
            prompts=shown.prompts,
            meaningless={image: [showing.show(one.stored, image) for one in asked] for image in images},
            text_only=[showing.show(one.stored, "query") for one in asked] if images else [],
            refused=[Refused(row=row, ways=ways[row["sample_id"]]) for row in shown.quarantined],
            rendered=shown.rendered,
        )

    def steer(self, prepared: Prepared, prefixes: Prefixes) -> Steered:
        """Measure the samples' own Δ, once for all strengths, and set aside where one is not finite."""
        from cmrm.answering import Group

        own = self._measure(prepared, prefixes)
        ways = [
            one.ways - {way for way, (_, finite) in own.items() if not finite[row]}
            for row, one in enumerate(prepared.asked)
        ]
        kept = [row for row, left in enumerate(ways) if left]
        numbers = sorted(frozenset().union(*ways))
        return Steered(
            group=Group(
                prompts=[prepared.prompts[row] for row in kept],
                ways=[self._intervene(way, own, kept) for way in numbers],
                wanted=[frozenset(numbers.index(way) for way in ways[row]) for row in kept],
                rendered=prepared.rendered if len(kept) == len(prepared.asked) else None,
            ),
            samples=[prepared.asked[row].stored for row in kept],
            ways=numbers,
            refused=[
                Refused(row=quarantine_row(one.stored, stage=self._first.stage, reason=NOT_FINITE), ways=lost)
                for one, left in zip(prepared.asked, ways, strict=True)
                if (lost := one.ways - left)
            ],
        )

    def _measured_images(self, asked: Sequence[Asked]) -> dict[Condition, list[int]]:
        """The ways that need the samples' own Δ, by its meaningless image."""
        images: dict[Condition, list[int]] = {}
        for way in sorted(frozenset().union(*(one.ways for one in asked))):
            one = self._steerings[way]
            if one is not None and way not in self._fixed:
                images.setdefault(one.image, []).append(way)
        return images

    def _measure(self, prepared: Prepared, prefixes: Prefixes) -> dict[int, tuple[Tensor, list[bool]]]:
        """The samples' own Δ at each way's blocks, [samples, blocks, hidden], and which of them are finite."""
        from cmrm.shift import measure_sample_shift

        own: dict[int, tuple[Tensor, list[bool]]] = {}
        for image, ways in self._measured_images(prepared.asked).items():
            union = sorted({block for way in ways for block in self._blocks[way]})
            delta = measure_sample_shift(
                self._vlm,
                with_image=prepared.meaningless[image],
                text_only=prepared.text_only,
                blocks=union,
                prefixes=prefixes,
            )
            parts: dict[Blocks, tuple[Tensor, list[bool]]] = {}
            for way in ways:
                blocks = self._blocks[way]
                if blocks not in parts:
                    part = delta[:, [union.index(block) for block in blocks]]
                    parts[blocks] = part, part.isfinite().flatten(1).all(dim=1).tolist()
                own[way] = parts[blocks]
        return own

    def _intervene(
        self, way: int, own: Mapping[int, tuple[Tensor, list[bool]]], rows: Sequence[int]
    ) -> Intervention | None:
        if way in self._fixed:
            return self._fixed[way]
        steering = self._steerings[way]
        assert steering is not None  # the plain way is fixed
        # A row whose Δ is not finite is not answered in this way, but an intervention is made of finite numbers.
        delta = own[way][0][list(rows)].nan_to_num(0.0, posinf=0.0, neginf=0.0)
        return make_intervention(steering, delta, self._blocks[way])
