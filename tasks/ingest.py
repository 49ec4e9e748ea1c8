"""Ingest: rows in, samples out; a bad row goes to quarantine with its reason, and the job goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any

from cmrm.datasets import screen
from cmrm.datasets.splits import Sides, SplitRow, choose_anchors, digest_text
from cmrm.samples import Rejected, Sample
from storage.identity import digest
from storage.manifest import Manifest
from storage.parquet import to_parquet
from storage.store import Store
from storage.tables import from_rows, table_path
from tasks.commit import Rows, commit_files
from tasks.pair import read_pairs
from tasks.progress import report_rows
from tasks.sources import Matches, Source, Survey, digest_image, survey
from tasks.stage import Job, make_stage


@dataclass(frozen=True, kw_only=True)
class IngestJob(Job):
    """One data set: where it lies, its pairing, its anchors, and `digest`, which stands for its rows and images."""

    source: Source
    pairs: str | None
    sides: Sides = field(hash=False)
    digest: str

    @property
    def stage(self) -> str:
        return "ingest"

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return self.source.dataset

    def content(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "rows": self.digest,
            "anchors": digest([unit.hex() for unit in sorted(self.sides.anchors)]),
        }


def plan_ingest(
    sources: Sequence[Source], *, store: str, seed: int, pairs: Mapping[str, Manifest]
) -> list[IngestJob]:
    """Read the data sets through once to learn what they hold, and choose the anchors of all of them together.

    `pairs` are the manifests of the pairings by data set. Raises `UserError` as `Source.read` does.
    """
    opened = Store.open(store)
    surveys = [survey(source, _read_matches(opened, pairs.get(source.dataset))) for source in sources]
    sides = choose_anchors(
        (row for found in surveys for row in found.texts),
        fractions={source.dataset: source.fraction for source in sources},
        seed=seed,
    )
    return [
        IngestJob(
            store=store,
            label=source.dataset,
            rows=found.rows,
            source=source,
            pairs=None if source.dataset not in pairs else pairs[source.dataset].key,
            # Its own anchors are enough: a job travels to its worker.
            sides=_keep_own(sides, found),
            digest=found.digest,
        )
        for source, found in zip(sources, surveys, strict=True)
    ]


def _ingest(job: IngestJob, store: Store) -> Manifest:
    samples: list[Sample] = []
    rejected: list[Rejected] = []
    matches = _read_matches(store, None if job.pairs is None else store.find("pair", job.pairs))
    for row in screen(job.source.read(matches), images=job.source.images):
        (rejected if isinstance(row, Rejected) else samples).append(row)  # type: ignore[arg-type] # told apart here
        report_rows(1)
    digests: dict[str, str | None] = {}
    stored = [
        {
            "dataset": sample.dataset,
            "sample_id": sample.id,
            "split": "anchor" if job.sides.is_anchor_sample(sample) else "target",
            "harmful": sample.harmful,
            "question": sample.question,
            "image": sample.image,
            "caption": sample.caption,
            "category": sample.category,
            "reference": sample.reference,
            "split_by": SplitRow.of(sample).text,
            "context": sample.context,
            "text_digest": digest({"question": sample.question, "caption": sample.caption}),
            "image_digest": digest_image(sample, job.source.images, digests),
        }
        for sample in samples
    ]
    quarantined = [
        {
            "stage": "ingest",
            "dataset": row.dataset,
            "sample_id": row.id,
            "line": row.line,
            "reason": row.reason,
            "raw": row.raw,
        }
        for row in rejected
    ]
    # Rows have no names before they are screened, and may share one; they are counted.
    return commit_files(
        job,
        store,
        {
            table_path("samples", job.key): to_parquet(from_rows(stored, "samples"), "samples"),
            table_path("quarantine", job.key): to_parquet(from_rows(quarantined, "quarantine"), "quarantine"),
        },
        rows=Rows(
            asked=repeat("row", job.rows),
            written=repeat("row", len(stored)),
            quarantined=repeat("row", len(quarantined)),
        ),
        provenance={"path": str(job.source.path), "format": job.source.format},
    )


def _keep_own(sides: Sides, found: Survey) -> Sides:
    own = {digest_text(row.text, seed=sides.seed) for row in found.texts}
    return replace(sides, anchors=sides.anchors & own)


def _read_matches(store: Store, manifest: Manifest | None) -> Matches:
    return {} if manifest is None else read_pairs(store, manifest)


ingest = make_stage("ingest", _ingest, place="processor")
