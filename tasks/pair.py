"""Pair: questions without an image are each given one of their own, by caption search or by CLIP."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmrm.clip import embed_texts, resolve_clip
from cmrm.datasets.coco import SPLIT_PREFIXES, read_captions
from cmrm.datasets.fields import clean
from cmrm.datasets.pairing import SCORE_SCALE, Match, Offer, assign
from cmrm.errors import UserError
from cmrm.samples import Sample
from storage.identity import digest, digest_file
from storage.manifest import Manifest
from storage.rows import read_rows
from storage.search import CANDIDATES, search_captions
from storage.store import Store
from storage.tables import from_rows
from tasks.commit import Rows, commit_rows
from tasks.look import ClipUse, EmbedImagesJob, load_clip_once, plan_looks, read_vectors
from tasks.models import forget_models
from tasks.progress import report_rows
from tasks.sources import Source
from tasks.stage import Job, make_stage

log = logging.getLogger("cmrm.tasks")

KIND = "pairs"
IMAGE_SUFFIXES = frozenset(("jpg", "jpeg", "png", "gif", "bmp", "tif", "tiff", "ppm", "webp", "avif"))


@dataclass(frozen=True, kw_only=True)
class PairJob(Job):
    """One data set's questions and the images they can be given.

    `questions`, `captions_digest` and `files` stand for the ordered questions, the captions file's bytes and the names
    in the image folder. With CLIP, `looks` are the keys of the images' vectors.
    """

    source: Source
    questions: str
    captions: Path | None
    captions_digest: str | None
    files: str
    clip: ClipUse | None
    looks: tuple[str, ...]

    @property
    def stage(self) -> str:
        return "pair"

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return self.source.dataset

    @property
    def images(self) -> Path:
        """The folder of the images."""
        assert self.source.images is not None
        return self.source.images

    def content(self) -> dict[str, Any]:
        # The vectors' keys hold the images' names and bytes; a caption is of a name, whatever the picture.
        ranked = (
            {"method": "captions", "files": self.files}
            if self.clip is None
            else {"method": "clip", **self.clip.content(), "looks": list(self.looks)}
        )
        return {
            "dataset": self.dataset,
            "questions": self.questions,
            "captions": self.captions_digest,
            "candidates": CANDIDATES,
            **ranked,
        }


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """The work of pairing a data set: the images to look at first (none without CLIP), then the pairing itself."""

    looks: tuple[EmbedImagesJob, ...]
    job: PairJob


def plan_pairing(
    source: Source, *, store: str, pair_with: Path | None, clip: Mapping[str, str] | None
) -> Pairing | None:
    """Plan to pair those of a data set's samples that have no image; None when there are none or no way is named.

    `pair_with` is a COCO captions file: its images that are in the folder can be given; without it, with `clip` (id,
    revision, device), all images of the folder. Raises `UserError` naming the data set's field.
    """
    if pair_with is None and clip is None:
        return None
    asked = _read_questions(source)
    if not asked:
        return None
    where = f"datasets.{source.dataset}"
    if source.images is None or not source.images.is_dir():
        raise UserError(f"{where}.images: {source.images} is no folder; give the images to pair with.")
    if pair_with is not None and not pair_with.is_file():
        raise UserError(f"{where}.pair_with: {pair_with} is no file; give COCO's captions file.")
    files = list_images(source.images)
    use, looks = None, []
    try:
        if clip is not None:
            identity = resolve_clip(clip["id"], revision=clip["revision"])
            use = ClipUse(identity=identity, device=clip["device"])
            names = files if pair_with is None else sorted({file for file, _ in _captions(pair_with, files)})
            looks = plan_looks(source.images, names, store=store, label=source.dataset, clip=use)
    except UserError as error:
        raise UserError(f"{where}.{error}") from None
    job = PairJob(
        store=store,
        label=source.dataset,
        rows=len(asked),
        source=source,
        questions=_digest_questions(asked),
        captions=pair_with,
        captions_digest=None if pair_with is None else digest_file(pair_with),
        files=digest(files),
        clip=use,
        looks=tuple(look.key for look in looks),
    )
    return Pairing(looks=tuple(looks), job=job)


def read_pairs(store: Store, manifest: Manifest) -> dict[str, Match]:
    """Read which sample, by id, was given which image."""
    table = read_rows(store, manifest, KIND)
    return {
        row["sample_id"]: Match(image=row["image"], caption=row["caption"], score=row["score"])
        for row in table.to_pylist()
    }


def list_images(folder: Path) -> list[str]:
    """List the image files under a folder by their names relative to it, sorted."""
    found = []
    for place, _, names in os.walk(folder):
        below = Path(place).relative_to(folder).as_posix()
        prefix = "" if below == "." else f"{below}/"
        found += [f"{prefix}{name}" for name in names if _has_image_suffix(name)]
    return sorted(found)


def _has_image_suffix(name: str) -> bool:
    stem, _, suffix = name.rpartition(".")
    return bool(stem) and suffix.lower() in IMAGE_SUFFIXES


def _pair(job: PairJob, store: Store) -> Manifest:
    asked = _read_questions(job.source)
    if _digest_questions(asked) != job.questions:
        raise UserError(f"datasets.{job.dataset}: its rows changed while they were being paired; run again.")
    questions = list(asked.values())
    by_captions = job.clip is None
    matches = _pair_by_captions(job, questions) if by_captions else _pair_by_clip(job, store, questions)
    rows = [
        {"dataset": job.dataset, "sample_id": sample_id, **dataclasses.asdict(match)}
        for sample_id, match in zip(asked, matches, strict=True)
        if match is not None
    ]
    unpaired = [sample_id for sample_id, match in zip(asked, matches, strict=True) if match is None]
    if unpaired:
        log.warning(
            "%s: %d of %d questions got no image: there are too few", job.label, len(unpaired), len(asked)
        )
    report_rows(job.rows)
    table = from_rows([row | {"method": job.content()["method"]} for row in rows], KIND)
    # A question without an image has no row here: ingest reads it as it is, and says why where it needs one.
    return commit_rows(
        job,
        store,
        kind=KIND,
        table=table,
        rows=Rows(asked=asked, written=table["sample_id"].to_pylist(), quarantined=unpaired),
        quarantined=[],
        provenance={"images": str(job.images), "captions": str(job.captions), "unpaired": len(unpaired)},
    )


def _pair_by_captions(job: PairJob, questions: Sequence[str]) -> list[Match | None]:
    assert job.captions is not None
    files = list_images(job.images)
    found = search_captions(questions, _captions(job.captions, files))
    offers = (
        Offer(*row)
        for batch in found.to_batches()
        for row in zip(*(batch[name].to_pylist() for name in Offer._fields), strict=True)
    )
    # The file is gone through again only if a question shares no word with any image that is left.
    return assign(offers, questions=len(questions), spare=_captions(job.captions, files))


def _pair_by_clip(job: PairJob, store: Store, questions: Sequence[str]) -> list[Match | None]:
    assert job.clip is not None
    texts = embed_texts(load_clip_once(job.clip), questions)
    forget_models()
    names, places, scores = _rank_images(texts, (read_vectors(store, key) for key in job.looks))
    offers = (
        Offer(question, names[place], None, score)
        for question, ranked in enumerate(zip(places.tolist(), scores.tolist(), strict=True))
        for place, score in zip(*ranked, strict=True)
    )
    matches = assign(offers, questions=len(questions), spare=((name, None) for name in names))
    return matches if job.captions is None else _add_captions(matches, job.captions, names)


def _rank_images(
    texts: np.ndarray, shards: Iterable[tuple[list[str], np.ndarray]]
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """All images' names, and each text's best: places among the names and scores in millionths, [texts, best].

    Shards come sorted by name, and so ties go to the image first by name. Memory is that of a shard and the best.
    """
    names: list[str] = []
    scores = np.empty((len(texts), 0), dtype=np.int64)
    places = np.empty((len(texts), 0), dtype=np.int64)
    for shard, vectors in shards:
        # Rounded, so that the last bits of a sum, which differ between machines, seldom decide.
        closeness = np.rint(texts @ vectors.T * SCORE_SCALE).astype(np.int64)
        here = np.broadcast_to(np.arange(len(names), len(names) + len(shard)), closeness.shape)
        scores, places = np.hstack([scores, closeness]), np.hstack([places, here])
        best = np.argsort(-scores, axis=1, kind="stable")[:, :CANDIDATES]
        scores, places = np.take_along_axis(scores, best, 1), np.take_along_axis(places, best, 1)
        names += shard
    return names, places, scores


def _add_captions(
    matches: Sequence[Match | None], captions: Path, names: Sequence[str]
) -> list[Match | None]:
    """Give each match the first caption of its image by name."""
    given = {match.image for match in matches if match}
    first: dict[str, str] = {}
    for image, caption in _captions(captions, names):
        if image in given:
            first[image] = min(caption, first.get(image, caption))
    return [match and dataclasses.replace(match, caption=first.get(match.image)) for match in matches]


def _captions(path: Path, files: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The captions of those images that are among the files: the file's name, with or without COCO's prefix."""
    known = frozenset(files)
    for caption in read_captions(path):
        names = (caption.image, *(f"{prefix}{caption.image}" for prefix in SPLIT_PREFIXES))
        if (file := next((name for name in names if name in known), None)) is not None:
            yield file, clean(caption.text)


def _read_questions(source: Source) -> dict[str, str]:
    """The questions without an image that can become samples, by id, in their order; of equal ids the first."""
    asked: dict[str, str] = {}
    for row in source.read({}):
        if isinstance(row, Sample) and row.image is None and row.question.strip():
            asked.setdefault(row.id, row.question)
    return asked


def _digest_questions(asked: Mapping[str, str]) -> str:
    return digest(list(asked.items()))


pair_images = make_stage("pair", _pair, place="processor")
