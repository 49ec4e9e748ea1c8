"""Build decode requests: prefetch the prompts of a batch, then measure its sample-level Δ on the device."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cmrm.prompts.conditions import Condition, Prompt
from tasks.shards.prompts import (
    OwnPrompts,
    PromptBuilder,
    prepare_batch,
    prepare_own,
    quarantine_row,
    render_apart,
)
from tasks.shards.samples import StoredSample
from tasks.states.intervene import NOT_FINITE, build_acting, find_own_blocks
from tasks.states.steering import (
    DefenceUse,
    Steering,
    StepUse,
    Use,
    asks_otherwise,
    list_leaves,
    needs_own_shift,
)

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BatchFeature

    from cmrm.decoding.api import DecodeRequest
    from cmrm.models.vlm import VisionLanguageModel
    from cmrm.prefix.image_prompts import ImageRendering
    from cmrm.prefix.planner import Prefixes
    from cmrm.steering.intervention import Steering as Acting

Blocks = tuple[int, ...]
# An arm's number, and the number of one of its interventions with a sample-level Δ.
Leaf = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ArmUse:
    """An arm: what it uses, None for plain answers, and the URL of the store that this is read from."""

    use: Use | None
    store: str


@dataclass(frozen=True, kw_only=True)
class PendingSample:
    """A sample, and the numbers of the arms that still lack its answer."""

    stored: StoredSample
    arms: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class QuarantinedSample:
    """A row of `quarantine`, and the numbers of the arms that it is for."""

    row: Mapping[str, Any]
    arms: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Samples with their prompts; for sample-level Δ also their image prompts and text prompts.

    `pairs` are the prompts between which other defences measure a sample's own Δ, by intervention.
    `own_prompts` holds by arm the prompts of arms that ask otherwise. `rendered` is the model's input for the prompts,
    None where they share a prefix whose prefill runs once; `renderings` say how each was rendered, where that is known.
    """

    asked: Sequence[PendingSample]
    prompts: Sequence[Prompt]
    own_prompts: Mapping[int, OwnPrompts]
    meaningless: Mapping[Condition, Sequence[Prompt]]
    text_only: Sequence[Prompt]
    pairs: Mapping[Leaf, tuple[Sequence[Prompt], Sequence[Prompt]]]
    quarantined: Sequence[QuarantinedSample]
    rendered: BatchFeature | None
    renderings: Sequence[ImageRendering | None]


@dataclass(frozen=True, kw_only=True)
class Steered:
    """A decode request, its samples row by row, and the job group's number of each of its arms."""

    request: DecodeRequest
    samples: Sequence[StoredSample]
    arms: Sequence[int]
    quarantined: Sequence[QuarantinedSample]


class RequestBuilder:
    """Builds decode requests for arms of one model on prompts of one condition; `stage` is that of quarantined rows.

    Raises `UserError` for a block that the model lacks.
    """

    def __init__(
        self,
        arms: Sequence[ArmUse],
        vlm: VisionLanguageModel,
        *,
        showing: PromptBuilder,
        condition: Condition,
        stage: str,
    ) -> None:
        from cmrm.prefix.renderer import Renderer

        self.renderer = Renderer(vlm)
        self._showing, self._condition, self._stage = showing, condition, stage
        self._vlm = vlm
        self._uses: list[Use | None] = [arm.use for arm in arms]
        self._stores = [arm.store for arm in arms]
        # The interventions with a sample-level Δ, which every batch measures anew.
        self._measured: dict[Leaf, Steering | DefenceUse] = {
            (arm, number): leaf
            for arm, one in enumerate(self._uses)
            if one is not None
            for number, leaf in enumerate(list_leaves(one))
            if needs_own_shift(leaf)
        }
        self._blocks = {leaf: find_own_blocks(vlm, one) for leaf, one in self._measured.items()}
        measured = {arm for arm, _ in self._measured}
        self._fixed: dict[int, Acting | None] = {
            arm: None if one is None else build_acting(one, {}, store=self._stores[arm], vlm=vlm)
            for arm, one in enumerate(self._uses)
            if arm not in measured
        }

    def count_alone(self, arms: Collection[int] | None = None) -> int:
        """How many of these arms, of all where none are given, share their prefill with no other.

        These are the ones that ask otherwise, or change the whole prompt.
        """
        from cmrm.decoding.requests import shares_prefill

        return sum(
            not shares_prefill(self._probe(arm), asks_otherwise=use is not None and asks_otherwise(use))
            for arm, use in enumerate(self._uses)
            if arms is None or arm in arms
        )

    def _probe(self, arm: int) -> Acting | None:
        """What changes the states of an arm; with zeros where each batch measures its Δ."""
        import torch

        zeros = {
            leaf: (torch.zeros(1, len(blocks), self._vlm.hidden_size), [True])
            for leaf, blocks in self._blocks.items()
        }
        return self._intervene(arm, zeros, [0])

    def prepare(self, batch: Sequence[PendingSample]) -> Prepared:
        """Open images, build prompts and render them; runs in the prefetch thread."""
        showing = self._showing
        arms = {one.stored.sample.id: one.arms for one in batch}
        samples = [one.stored for one in batch]
        shown = prepare_batch(self.renderer, showing, samples, self._condition, stage=self._stage)
        asked = [PendingSample(stored=one, arms=arms[one.sample.id]) for one in shown.samples]
        own_prompts = {
            arm: prepare_own(self.renderer, shown, prompts)
            for arm, prompts in self._change_prompts(asked, shown.prompts).items()
        }
        pairs = self._make_pairs(asked, shown.prompts)
        paired = [
            (arm, render_apart(self.renderer, prompts))
            for arm, prompts in _list_changed(pairs, shown.prompts)
        ]
        asked, refused = self._refuse(asked, [*own_prompts.items(), *paired])
        images = self._measured_images(asked)
        return Prepared(
            asked=asked,
            prompts=shown.prompts,
            own_prompts=own_prompts,
            meaningless={image: [showing.show(one.stored, image) for one in asked] for image in images},
            text_only=[showing.show(one.stored, "query") for one in asked] if images else [],
            pairs=self._make_pairs(asked, shown.prompts),
            quarantined=[
                *(QuarantinedSample(row=row, arms=arms[row["sample_id"]]) for row in shown.quarantined),
                *refused,
            ],
            rendered=shown.rendered,
            renderings=shown.renderings,
        )

    def steer(self, prepared: Prepared, prefixes: Prefixes) -> Steered:
        """Measure sample-level Δ, once for all strengths, and quarantine samples whose Δ is not finite."""
        from cmrm.decoding.api import DecodeRequest

        own = self._measure(prepared, prefixes)
        arms = [
            one.arms - {arm for (arm, _), (_, finite) in own.items() if not finite[row]}
            for row, one in enumerate(prepared.asked)
        ]
        kept = [row for row, left in enumerate(arms) if left]
        numbers = sorted(frozenset().union(*arms))
        own_prompts = {
            place: prepared.own_prompts[arm]
            for place, arm in enumerate(numbers)
            if arm in prepared.own_prompts
        }
        complete = len(kept) == len(prepared.asked)
        return Steered(
            request=DecodeRequest(
                prompts=[prepared.prompts[row] for row in kept],
                arms=[self._intervene(arm, own, kept) for arm in numbers],
                wanted=[frozenset(numbers.index(arm) for arm in arms[row]) for row in kept],
                rendered=prepared.rendered if complete else None,
                renderings=[prepared.renderings[row] for row in kept] if prepared.renderings else (),
                own_prompts={place: [one.prompts[row] for row in kept] for place, one in own_prompts.items()},
                own_ids={
                    place: [one.ids[row] for row in kept]
                    for place, one in own_prompts.items()
                    if one.ids is not None
                },
                own_rendered={
                    place: one.rendered
                    for place, one in own_prompts.items()
                    if complete and one.rendered is not None
                },
                contrasts={
                    place: contrast
                    for place, arm in enumerate(numbers)
                    if (contrast := self._contrast(arm)) is not None
                },
            ),
            samples=[prepared.asked[row].stored for row in kept],
            arms=numbers,
            quarantined=[
                QuarantinedSample(
                    row=quarantine_row(one.stored, stage=self._stage, reason=NOT_FINITE), arms=lost
                )
                for one, left in zip(prepared.asked, arms, strict=True)
                if (lost := one.arms - left)
            ],
        )

    def _change_prompts(
        self, asked: Sequence[PendingSample], prompts: Sequence[Prompt]
    ) -> dict[int, list[Prompt]]:
        """The prompts of arms that ask otherwise, by arm: one a sample."""
        changed: dict[int, list[Prompt]] = {}
        for arm in sorted(frozenset[int]().union(*(one.arms for one in asked))):
            use = self._uses[arm]
            if use is None:
                continue
            # A sample without this arm may lack what its prompt is made of.
            own = [
                use.ask(prompt, one.stored.sample.id, self._stores[arm]) if arm in one.arms else prompt
                for one, prompt in zip(asked, prompts, strict=True)
            ]
            if any(one is not plain for one, plain in zip(own, prompts, strict=True)):
                changed[arm] = own
        return changed

    def _make_pairs(
        self, asked: Sequence[PendingSample], prompts: Sequence[Prompt]
    ) -> dict[Leaf, tuple[list[Prompt], list[Prompt]]]:
        """The prompts between which defences with steps measure a Δ of each sample's own, by intervention."""
        pairs: dict[Leaf, tuple[list[Prompt], list[Prompt]]] = {}
        for arm, number in self._measured:
            use = self._uses[arm]
            if isinstance(use, StepUse) and any(arm in one.arms for one in asked):
                # A sample without this arm has no Δ to measure: two prompts alike.
                made = [
                    use.pair(prompt, one.stored.sample.id, self._stores[arm])
                    if arm in one.arms
                    else (prompt, prompt)
                    for one, prompt in zip(asked, prompts, strict=True)
                ]
                pairs[arm, number] = [before for before, _ in made], [after for _, after in made]
        return pairs

    def _refuse(
        self, asked: Sequence[PendingSample], changed: Iterable[tuple[int, OwnPrompts]]
    ) -> tuple[list[PendingSample], list[QuarantinedSample]]:
        """Take an arm from the samples with a changed prompt that the model cannot be given; quarantine them for it."""
        left = [set(one.arms) for one in asked]
        quarantined = []
        for arm, own in changed:
            for row, reason in own.refused.items():
                if arm in left[row]:
                    left[row].remove(arm)
                    told = quarantine_row(asked[row].stored, stage=self._stage, reason=reason)
                    quarantined.append(QuarantinedSample(row=told, arms=frozenset([arm])))
        kept = [
            PendingSample(stored=one.stored, arms=frozenset(arms))
            for one, arms in zip(asked, left, strict=True)
        ]
        return kept, quarantined

    def _contrast(self, arm: int) -> float | None:
        use = self._uses[arm]
        return None if use is None else use.contrast

    def _measured_images(self, asked: Sequence[PendingSample]) -> dict[Condition, list[Leaf]]:
        """The interventions that need a sample-level Δ, by its meaningless image."""
        wanted = frozenset[int]().union(*(one.arms for one in asked))
        images: dict[Condition, list[Leaf]] = {}
        for leaf, steering in self._measured.items():
            if leaf[0] in wanted and isinstance(steering, Steering):
                images.setdefault(steering.image, []).append(leaf)
        return images

    def _measure(self, prepared: Prepared, prefixes: Prefixes) -> dict[Leaf, tuple[Tensor, list[bool]]]:
        """Measure sample-level Δ at each one's blocks, [samples, blocks, hidden], and which of them are finite."""
        from cmrm.steering.capture import embed
        from cmrm.steering.shift import measure_sample_shift

        own: dict[Leaf, tuple[Tensor, list[bool]]] = {}
        for image, leaves in self._measured_images(prepared.asked).items():
            union = sorted({block for leaf in leaves for block in self._blocks[leaf]})
            delta = measure_sample_shift(
                self._vlm,
                with_image=prepared.meaningless[image],
                text_only=prepared.text_only,
                blocks=union,
                prefixes=prefixes,
            )
            chosen: dict[Blocks, tuple[Tensor, list[bool]]] = {}
            for leaf in leaves:
                blocks = self._blocks[leaf]
                if blocks not in chosen:
                    at_blocks = delta[:, [union.index(block) for block in blocks]]
                    chosen[blocks] = at_blocks, at_blocks.isfinite().flatten(1).all(dim=1).tolist()
                own[leaf] = chosen[blocks]
        for leaf, (before, after) in prepared.pairs.items():
            delta = embed(self._vlm, before, blocks=self._blocks[leaf], prefixes=prefixes) - embed(
                self._vlm, after, blocks=self._blocks[leaf], prefixes=prefixes
            )
            own[leaf] = delta, delta.isfinite().flatten(1).all(dim=1).tolist()
        return own

    def _intervene(
        self, arm: int, own: Mapping[Leaf, tuple[Tensor, list[bool]]], rows: Sequence[int]
    ) -> Acting | None:
        if arm in self._fixed:
            return self._fixed[arm]
        use = self._uses[arm]
        assert use is not None  # the baseline is fixed
        # A row whose Δ is not finite gets no answer under this arm, but `Intervention` requires finite numbers.
        deltas = {
            number: delta[list(rows)].nan_to_num(0.0, posinf=0.0, neginf=0.0)
            for (owner, number), (delta, _) in own.items()
            if owner == arm
        }
        return build_acting(use, deltas, store=self._stores[arm], vlm=self._vlm)


def _list_changed(
    pairs: Mapping[Leaf, tuple[Sequence[Prompt], Sequence[Prompt]]], plain: Sequence[Prompt]
) -> Iterator[tuple[int, Sequence[Prompt]]]:
    """List by arm the prompts of pairs that are not the plain ones: a generated caption in them may be anything."""
    for (arm, _), both in pairs.items():
        for prompts in both:
            if any(one is not other for one, other in zip(prompts, plain, strict=True)):
                yield arm, prompts
