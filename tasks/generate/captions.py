"""Caption images as a stage of its own: jobs like those of answers, whose rows are `captions`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cmrm.prompts.reasoning import split_trace
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.core.stage import make_stage
from tasks.core.stage_name import StageName
from tasks.generate.job import GenerateJob
from tasks.generate.stage import generate
from tasks.shards.precision import describe_batches
from tasks.shards.samples import Captioned, StoredSample, needs_caption
from tasks.states.steering import CaptionUse

if TYPE_CHECKING:
    from cmrm.decoding.requests import Answer

NO_CAPTION = "the model wrote an empty caption"


@dataclass(frozen=True, kw_only=True)
class CaptionJob(GenerateJob):
    """The images of one shard, captioned by one model: those of samples without a caption of their own, or all."""

    steering: CaptionUse
    captioned: Captioned

    @property
    def stage(self) -> StageName:
        return StageName.CAPTION

    def content(self) -> dict[str, Any]:
        return {
            **self.model.content_with_images(),
            "samples": self.slice.digest,
            "decoding": {"method": "greedy", "max_new_tokens": self.max_new_tokens},
            **self.steering.content(self.showing),
            **self._describe_traces(),
            **describe_batches(self.fixed_batch),
        }

    @property
    def kind(self) -> str:
        return "captions"

    @property
    def gives_answers(self) -> bool:
        return False

    def read(self, store: Store) -> Sequence[StoredSample]:
        return [stored for stored in super().read(store) if needs_caption(stored, self.captioned)]

    def find_lack(self, answer: Answer) -> str | None:
        return None if self._find_caption(answer) else NO_CAPTION

    def to_row(self, stored: StoredSample, answer: Answer) -> dict[str, Any]:
        return {
            "model": self.model.name,
            "dataset": stored.sample.dataset,
            "sample_id": stored.sample.id,
            "style": self.steering.prompt.style,
            "prompt": self.steering.prompt.text,
            "caption": self._find_caption(answer),
            "tokens": answer.tokens,
            "finish_reason": answer.finish_reason,
            "prompt_tokens": answer.prompt_tokens,
        }

    def _find_caption(self, answer: Answer) -> str:
        """The answer without the trace of a model that reasons; '' for nothing."""
        marks = self.model.reasoning
        return (answer.text if marks is None else split_trace(answer.text, marks).final or "").strip()

    def _describe_traces(self) -> dict[str, Any]:
        # Captions of models that have the tokens of traces, and do not reason, keep their keys.
        marks = self.model.reasoning
        unused = marks is None or (marks.declared == "tokens" and not marks.wrapping)
        return {} if marks is None or unused else {"without_trace": marks.content()}


def _caption(job: CaptionJob, store: Store) -> Manifest:
    (made,) = generate([job], store)
    return made


caption_images = make_stage(StageName.CAPTION, _caption, place="devices")
