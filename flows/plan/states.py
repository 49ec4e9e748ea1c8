"""Plan of one model's hidden states: jobs that extract them, plain and steered, at every position that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cmrm.prompts.conditions import MEANINGLESS, Condition
from cmrm.steering.settings import Position
from flows.plan.prompts import make_prompt_builder
from flows.spec.spec import Spec
from storage.records.manifest import Manifest
from storage.shards.hidden_states import LAST
from storage.store import Store
from tasks.core.models import ModelUse
from tasks.shards.prompts import PromptBuilder
from tasks.shards.samples import Captions, Shard, Slice, Split, slice_captioned, slice_samples
from tasks.states.extract import EmbedJob, list_further
from tasks.states.shift_parts import list_conditions
from tasks.states.steering import SingleUse, Use

Samples = Mapping[str, Manifest]


@dataclass(frozen=True, kw_only=True)
class StatesPlan:
    """The jobs that extract hidden states of one model; `captions` are those of images, by shard, once there.

    `shown_as` is the model whose prompts it is shown, None for its own.
    """

    spec: Spec
    model: ModelUse
    store: Store
    captions: Mapping[Shard, Captions] = field(default_factory=dict)
    shown_as: ModelUse | None = None

    def embed_jobs(self, samples: Samples) -> list[EmbedJob]:
        """Extract states of the anchors as text and with each image, for Δ and the figure; then those of targets."""
        return [self._embed(shard_view) for shard_view in self._list_plain(samples)]

    def embed_more_jobs(self, samples: Samples, steered: Sequence[SingleUse]) -> list[EmbedJob]:
        """Extract states at the other positions that the spec asks for, plain and steered.

        Each position is a job by itself: whoever adds one keeps the states that Δ was measured on and those at other
        positions, and their keys.
        """
        asked = self.spec.positions
        if len(asked) == 1:
            return []
        plain = [(shard_view, None) for shard_view in self._list_plain(samples)]
        return [
            self._embed(shard_view, one, position)
            for shard_view, one in (*plain, *self._list_steered(samples, steered))
            for position in list_further(asked, shard_view.condition)
        ]

    def embed_steered_jobs(self, samples: Samples, steered: Sequence[SingleUse]) -> list[EmbedJob]:
        """Extract steered states of the targets with their own image, under the chosen interventions."""
        return [self._embed(shard_view, one) for shard_view, one in self._list_steered(samples, steered)]

    def _list_plain(self, samples: Samples) -> list[Slice]:
        """List the shards whose states are read as they are, by condition."""
        shifts = (one.image for one in self.spec.shifts())
        steps = (name for image in self.spec.taken_apart() for name in list_conditions(image))
        wanted = {"query", *shifts, *steps, *self.spec.labelled_conditions(), *self.spec.conditions}
        known: tuple[Condition, ...] = ("query", "image", *MEANINGLESS)
        conditions = [one for one in known if one in wanted]
        if "caption" in self.spec.labelled_conditions():
            conditions.append("caption")
        sources = [name for name, share in self.spec.anchors.from_.items() if share > 0]
        anchors = self._shards(samples, sources, split="anchor", conditions=conditions)
        # Steered states are compared with those of the same samples as text and with their image.
        compared: list[Condition] = ["query", "image"] if self.spec.steered_states else []
        shown = list(dict.fromkeys([*self.spec.target_states, *compared]))
        targets = self._shards(samples, self.spec.judged(), split="target", conditions=shown)
        return [*anchors, *targets]

    def _list_steered(
        self, samples: Samples, steered: Sequence[SingleUse]
    ) -> Iterator[tuple[Slice, SingleUse]]:
        """List the shards whose steered states are read, each with its intervention."""
        for one in steered:
            if one.name in self.spec.steered_names():
                yield from ((shard_view, one) for shard_view in self._targets(samples, "image"))

    def _embed(
        self,
        shard_view: Slice,
        steering: SingleUse | None = None,
        position: Position = LAST,
    ) -> EmbedJob:
        at = "" if position == LAST else f" at {position}"
        return EmbedJob(
            store=self.store.url,
            label=f"{label_job(shard_view, steering)}{at}",
            rows=shard_view.rows,
            slice=shard_view,
            model=self.model,
            showing=self._make_builder(shard_view),
            steering=steering,
            position=position,
            batch_size=self.spec.batch_size,
            fixed_batch=self.spec.fixed_batch,
        )

    def _make_builder(self, shard_view: Slice) -> PromptBuilder:
        model = self.shown_as or self.model
        return make_prompt_builder(self.spec, shard_view.shard.dataset, store=self.store.url, model=model)

    def _targets(self, samples: Samples, condition: Condition) -> Iterator[Slice]:
        return self._shards(samples, self.spec.judged(), split="target", conditions=[condition])

    def _shards(
        self, samples: Samples, datasets: Iterable[str], *, split: Split, conditions: Sequence[Condition]
    ) -> Iterator[Slice]:
        names, url, size = list(datasets), self.store.url, self.spec.shard_size
        for condition in conditions:
            for name in names:
                if condition == "caption" and self.captions:
                    yield from slice_captioned(url, samples[name].key, split, size, self.captions)
                else:
                    yield from slice_samples(url, samples[name].key, split, condition, size)


def label_job(shard_view: Slice, steering: Use | None) -> str:
    """Label a job by its data set, condition and shard, and by its intervention and strength."""
    if steering is None:
        return shard_view.label
    strength = "" if steering.alpha is None else f" α={steering.alpha:g}"
    return f"{shard_view.label}, {steering.name}{strength}"
