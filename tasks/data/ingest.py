"""Ingest a data set: rows in, samples out; bad rows are quarantined with a reason, and the job continues."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any

from cmrm.datasets import screen
from cmrm.datasets.image_folder import ImageFolder
from cmrm.datasets.splits import Sides, SplitRow, choose_anchors, digest_text
from cmrm.prompts.media import Audio, Video
from cmrm.prompts.open_medium import open_medium
from cmrm.prompts.sample import Rejected, Sample
from storage.records.hashing import digest
from storage.records.manifest import Manifest
from storage.store import Store
from storage.tables.arrow import from_rows, table_path
from storage.tables.parquet import to_parquet, write_rows
from tasks.core.commit import Rows, commit_files
from tasks.core.progress import report_rows
from tasks.core.stage import Job, make_stage
from tasks.core.stage_name import StageName
from tasks.data.pair import read_pairs
from tasks.data.sources import Matches, Source, Survey, digest_image, digest_media, survey


@dataclass(frozen=True, kw_only=True)
class IngestJob(Job):
    """One data set: its source, its pairing, its anchors, and the `digest` of its rows and images."""

    source: Source
    pairs: str | None
    sides: Sides = field(hash=False)
    digest: str

    @property
    def stage(self) -> StageName:
        return StageName.INGEST

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
    sources: Sequence[Source], *, store: Store, seed: int, pairs: Mapping[str, Manifest]
) -> list[IngestJob]:
    """Plan ingest: read every data set once to count and digest it, and choose the anchors of all together.

    `pairs` are the manifests of the pairings by data set. Raises `UserError` as `Source.read` does.
    """
    surveys = [survey(source, _read_matches(store, pairs.get(source.dataset))) for source in sources]
    sides = choose_anchors(
        (row for found in surveys for row in found.texts),
        fractions={source.dataset: source.fraction for source in sources},
        seed=seed,
    )
    return [
        IngestJob(
            store=store.url,
            label=source.dataset,
            rows=found.rows,
            source=source.settle(store),
            pairs=None if source.dataset not in pairs else pairs[source.dataset].key,
            # Only its own anchors, since a job is sent to its worker.
            sides=_keep_own(sides, found),
            digest=found.digest,
        )
        for source, found in zip(sources, surveys, strict=True)
    ]


def _ingest(job: IngestJob, store: Store) -> Manifest:
    quarantined: list[dict[str, Any]] = []
    samples = io.BytesIO()
    written = write_rows(_screen(job, store, quarantined), "samples", samples)
    # Rows have no ids before screening, and may share one; so they are counted.
    return commit_files(
        job,
        store,
        {
            table_path("samples", job.key): samples.getvalue(),
            table_path("quarantine", job.key): to_parquet(from_rows(quarantined, "quarantine"), "quarantine"),
        },
        rows=Rows(
            asked=repeat("row", job.rows),
            written=repeat("row", written),
            quarantined=repeat("row", len(quarantined)),
        ),
        provenance={"path": job.source.url or str(job.source.path), "format": job.source.format},
    )


def _screen(job: IngestJob, store: Store, quarantined: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of samples as they are read, and add those of bad rows to `quarantined`."""
    matches = _read_matches(store, None if job.pairs is None else store.find(StageName.PAIR, job.pairs))
    digests: dict[str, str | None] = {}
    images = None if job.source.images is None else ImageFolder(job.source.images)
    for row in screen(job.source.read(matches), images=job.source.images):
        report_rows(1)
        if isinstance(row, Rejected):
            quarantined.append(
                {
                    "stage": StageName.INGEST,
                    "dataset": row.dataset,
                    "sample_id": row.id,
                    "line": row.line,
                    "reason": row.reason,
                    "raw": row.raw,
                }
            )
            continue
        yield {
            "dataset": row.dataset,
            "sample_id": row.id,
            "split": "anchor" if job.sides.is_anchor_sample(row) else "target",
            "harmful": row.harmful,
            "question": row.question,
            "image": row.image,
            "caption": row.caption,
            "category": row.category,
            "reference": row.reference,
            "split_by": SplitRow.of(row).text,
            "context": row.context,
            "removed": row.removed,
            "twin": row.twin,
            "text_digest": digest({"question": row.question, "caption": row.caption}),
            "image_digest": digest_image(row, images, digests),
            "media": _describe_media(row, images, digests),
        }


def _describe_media(
    sample: Sample, images: ImageFolder | None, digests: dict[str, str | None]
) -> list[dict[str, Any]] | None:
    """Describe a sample's media for its row, as they are shown; None without any."""
    if not sample.media or images is None:
        return None
    described = []
    for medium, found in zip(sample.media, digest_media(sample, images, digests), strict=True):
        opened = None if medium.kind == "image" else open_medium(images.root, medium)
        described.append(
            {
                "kind": medium.kind,
                "name": medium.name,
                "digest": found,
                "frames": len(opened.frames) if isinstance(opened, Video) else None,
                "seconds": opened.seconds if isinstance(opened, Video | Audio) else None,
            }
        )
    return described


def _keep_own(sides: Sides, found: Survey) -> Sides:
    own = {digest_text(row.text, seed=sides.seed) for row in found.texts}
    return replace(sides, anchors=sides.anchors & own)


def _read_matches(store: Store, manifest: Manifest | None) -> Matches:
    return {} if manifest is None else read_pairs(store, manifest)


ingest = make_stage(StageName.INGEST, _ingest, place="processor")
