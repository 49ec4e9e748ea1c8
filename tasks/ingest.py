"""Ingest: rows in, samples out; a bad row goes to quarantine with its reason, and the job goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cmrm.datasets import read_dataset, screen, split
from cmrm.datasets.screening import find_image
from cmrm.errors import UserError
from cmrm.samples import Rejected, Sample
from storage.identity import canonical_json, digest, digest_file
from storage.manifest import Manifest
from storage.store import Store
from storage.tables import from_rows, table_path, to_parquet
from tasks.progress import report_rows
from tasks.stage import Job, make_stage


@dataclass(frozen=True, kw_only=True)
class IngestJob(Job):
    """One data set: where it lies, and `digest`, which stands for its rows and its images' bytes."""

    dataset: str
    format: str
    path: Path
    images: Path | None
    options: Mapping[str, Any] = field(hash=False)
    fraction: float
    seed: int
    digest: str

    @property
    def stage(self) -> str:
        return "ingest"

    def content(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "rows": self.digest,
            "anchors": {"fraction": self.fraction, "seed": self.seed},
        }


def plan_ingest(
    *,
    store: str,
    dataset: str,
    format: str,  # noqa: A002 - the field's name in the spec
    path: Path,
    images: Path | None,
    options: Mapping[str, Any],
    fraction: float,
    seed: int,
) -> IngestJob:
    """Read a data set through once, without keeping it, to learn what its rows and images are.

    Raises `UserError` naming the spec's field when a file or the image folder is not there.
    """
    total, rows = hashlib.sha256(), 0
    digests: dict[str, str | None] = {}
    try:
        if images is not None and not images.is_dir():
            raise UserError(f"image folder {images} does not exist; correct the path of `images`.")
        for row in read_dataset(format, path, dataset=dataset, **options):
            total.update(canonical_json(_describe(row, images, digests)))
            rows += 1
    except UserError as error:
        raise UserError(f"datasets.{dataset}: {error}") from None
    return IngestJob(
        store=store,
        label=dataset,
        rows=rows,
        dataset=dataset,
        format=format,
        path=path,
        images=images,
        options=options,
        fraction=fraction,
        seed=seed,
        digest=total.hexdigest(),
    )


def _ingest(job: IngestJob, store: Store) -> Manifest:
    samples: list[Sample] = []
    rejected: list[Rejected] = []
    rows = read_dataset(job.format, job.path, dataset=job.dataset, **job.options)
    for row in screen(rows, images=job.images):
        (rejected if isinstance(row, Rejected) else samples).append(row)  # type: ignore[arg-type] # told apart here
        report_rows(1)
    anchors, _ = split(samples, fraction=job.fraction, seed=job.seed)
    anchor_ids = {sample.id for sample in anchors}
    digests: dict[str, str | None] = {}
    stored = [
        {
            "dataset": sample.dataset,
            "sample_id": sample.id,
            "split": "anchor" if sample.id in anchor_ids else "target",
            "harmful": sample.harmful,
            "question": sample.question,
            "image": sample.image,
            "caption": sample.caption,
            "category": sample.category,
            "reference": sample.reference,
            "text_digest": digest({"question": sample.question, "caption": sample.caption}),
            "image_digest": _digest_image(sample, job.images, digests),
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
    return store.commit(
        job.stage,
        job.key,
        {
            table_path("samples", job.key): to_parquet(from_rows(stored, "samples"), "samples"),
            table_path("quarantine", job.key): to_parquet(from_rows(quarantined, "quarantine"), "quarantine"),
        },
        content=job.content(),
        provenance={"path": str(job.path), "format": job.format},
    )


def _describe(row: Sample | Rejected, images: Path | None, digests: dict[str, str | None]) -> dict[str, Any]:
    described = {**asdict(row), "digest": _digest_image(row, images, digests)}
    # A blank line above a sample moves it and changes nothing; the line of a bad row is part of what is told of it.
    if isinstance(row, Sample):
        del described["line"]
    return described


def _digest_image(row: Sample | Rejected, images: Path | None, known: dict[str, str | None]) -> str | None:
    """The digest of a sample's image file, looked up once a name; None for no image or none that can be read."""
    if isinstance(row, Rejected) or row.image is None or images is None:
        return None
    if row.image not in known:
        found = find_image(images, row.image)
        try:
            known[row.image] = None if found is None else digest_file(found)
        except OSError:
            known[row.image] = None  # the screening will say why it cannot be read
    return known[row.image]


ingest = make_stage("ingest", _ingest)
