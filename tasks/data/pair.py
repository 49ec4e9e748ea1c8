"""Pair questions without an image with images, by caption search or by CLIP."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmrm.datasets.clip import embed_texts, resolve_clip
from cmrm.datasets.coco import SPLIT_PREFIXES, read_captions
from cmrm.datasets.fields import clean, cut, is_storable
from cmrm.datasets.pairing import SCORE_SCALE, Match, Offer, assign
from cmrm.errors import UserError
from cmrm.models.image_backend import describe_image_backend
from cmrm.prompts.images import open_image
from cmrm.prompts.sample import Sample
from storage.records.hashing import digest, digest_file
from storage.records.manifest import Manifest
from storage.shards.rows import need_manifest, read_rows
from storage.store import Store
from storage.tables.arrow import from_rows
from tasks.core.commit import Rows, commit_rows
from tasks.core.models import forget_models
from tasks.core.progress import report_rows
from tasks.core.stage import Job, make_stage
from tasks.core.stage_name import StageName
from tasks.data.caption_search import CANDIDATES, search_captions
from tasks.data.embed_images import ClipUse, EmbedImagesJob, load_clip_once, plan_embedding, read_vectors
from tasks.data.sources import Source

log = logging.getLogger("cmrm.tasks")

KIND = "pairs"
IMAGE_SUFFIXES = frozenset(("jpg", "jpeg", "png", "gif", "bmp", "tif", "tiff", "ppm", "webp", "avif"))


@dataclass(frozen=True, kw_only=True)
class PairJob(Job):
    """One data set's questions and the images they can be paired with.

    `questions`, `captions_digest` and `files` are digests of the ordered questions, the captions file's bytes and the
    names in the image folder. With CLIP, `vectors` are the keys of the images' vectors.
    """

    source: Source
    questions: str
    captions: Path | None
    captions_digest: str | None
    files: str
    clip: ClipUse | None
    vectors: tuple[str, ...]

    @property
    def stage(self) -> StageName:
        return StageName.PAIR

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
        # The vectors' keys cover the images' names and bytes; captions belong to a name, whatever the pixels.
        ranked = (
            # Earlier releases paired questions with unreadable images; none of those pairings is reused.
            {"method": "captions", "files": self.files, "skips": "unreadable"}
            if self.clip is None
            else {"method": "clip", **self.clip.content(), "looks": list(self.vectors)}
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
    """The jobs that pair a data set: embedding its images first (none without CLIP), then the pairing itself."""

    looks: tuple[EmbedImagesJob, ...]
    job: PairJob


def plan_pairing(
    source: Source, *, store: str, pair_with: Path | None, clip: Mapping[str, str] | None
) -> Pairing | None:
    """Plan to pair a data set's samples without an image; None if there are none or no method is named.

    `pair_with` is a COCO captions file: its images that are in the folder are candidates; without it, with `clip` (id,
    revision, device), all images of the folder are. Raises `UserError` naming the data set's field.
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
    use, jobs = None, []
    try:
        if clip is not None:
            identity = resolve_clip(clip["id"], revision=clip["revision"])
            use = ClipUse(
                identity=identity,
                device=clip["device"],
                image_backend=describe_image_backend("pillow", where=identity.id),
            )
            names = files if pair_with is None else sorted({file for file, _ in _captions(pair_with, files)})
            jobs = plan_embedding(source.images, names, store=store, label=source.dataset, clip=use)
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
        vectors=tuple(one.key for one in jobs),
    )
    return Pairing(looks=tuple(jobs), job=job)


def read_pairs(store: Store, manifest: Manifest) -> dict[str, Match]:
    """Read the image paired with each sample, by sample id."""
    table = read_rows(store, manifest, KIND)
    return {
        row["sample_id"]: Match(image=row["image"], caption=row["caption"], score=row["score"])
        for row in table.to_pylist()
    }


def list_images(folder: Path) -> list[str]:
    """List the image files under a folder, by relative name, sorted, without those whose names are not UTF-8."""
    found: list[str] = []
    for place, _, names in os.walk(folder):
        below = Path(place).relative_to(folder).as_posix()
        prefix = "" if below == "." else f"{below}/"
        found += [f"{prefix}{name}" for name in names if _has_image_suffix(name)]
    storable = sorted(filter(is_storable, found))
    if left := len(found) - len(storable):
        log.warning(
            "%s: %d images have paths that are not UTF-8, and nothing is paired with them", folder, left
        )
    return storable


def _has_image_suffix(name: str) -> bool:
    stem, _, suffix = name.rpartition(".")
    return bool(stem) and suffix.lower() in IMAGE_SUFFIXES


def _pair(job: PairJob, store: Store) -> Manifest:
    asked = _read_questions(job.source)
    if _digest_questions(asked) != job.questions:
        raise UserError(f"datasets.{job.dataset}: its rows changed while they were being paired; run again.")
    questions = list(asked.values())
    if job.clip is None:
        matches, unreadable = _pair_by_captions(job, questions)
    else:
        matches, unreadable = _pair_by_clip(job, store, questions), _list_unreadable(job, store)
    if unreadable:
        log.warning(
            "%s: %d images cannot be opened, and no question is paired with them (first %s)",
            job.label,
            len(unreadable),
            cut(unreadable[0]),
        )
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
    # An unpaired question has no row here: ingest reads it without an image, and quarantines it if it needs one.
    return commit_rows(
        job,
        store,
        kind=KIND,
        table=table,
        rows=Rows(asked=asked, written=table["sample_id"].to_pylist(), quarantined=unpaired),
        quarantined=[],
        provenance={
            "images": str(job.images),
            "captions": str(job.captions),
            "unpaired": len(unpaired),
            "unreadable": unreadable,
        },
    )


def _pair_by_captions(job: PairJob, questions: Sequence[str]) -> tuple[list[Match | None], list[str]]:
    """Pair by captions; return the matches, and the unreadable images among the candidates tried."""
    assert job.captions is not None
    unreadable: dict[str, None] = {}

    def can_be_opened(name: str) -> bool:
        try:
            open_image(job.images, name)
        except UserError:
            unreadable[name] = None
        return name not in unreadable

    files = list_images(job.images)
    found = search_captions(questions, _captions(job.captions, files))
    offers = (
        Offer(*row)
        for batch in found.to_batches()
        for row in zip(*(batch[name].to_pylist() for name in Offer._fields), strict=True)
    )
    # The file is read again only if a question shares no word with any remaining image.
    spare = _captions(job.captions, files)
    matches = assign(offers, questions=len(questions), spare=spare, is_usable=can_be_opened)
    return matches, sorted(unreadable)


def _list_unreadable(job: PairJob, store: Store) -> list[str]:
    """List the images without a vector, since they could not be opened."""
    kept = (need_manifest(store, StageName.EMBED_IMAGES, key).provenance for key in job.vectors)
    return sorted({name for provenance in kept for name in provenance.get("unreadable", ())})


def _pair_by_clip(job: PairJob, store: Store, questions: Sequence[str]) -> list[Match | None]:
    assert job.clip is not None
    texts = embed_texts(load_clip_once(job.clip), questions)
    forget_models()
    names, places, scores = _rank_images(texts, (read_vectors(store, key) for key in job.vectors))
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
    """Rank images by cosine similarity: their names, and each text's best indices and scores [texts, best].

    Scores are in millionths. Shards come sorted by name, so that ties go to the first image by name. Memory is one
    shard and the best candidates.
    """
    names: list[str] = []
    scores = np.empty((len(texts), 0), dtype=np.int64)
    places = np.empty((len(texts), 0), dtype=np.int64)
    for shard, vectors in shards:
        # Rounded, so that the last bits of a sum, which differ between machines, rarely decide.
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
    """The captions of images that are among the files, by file name, with or without COCO's prefix."""
    known = frozenset(files)
    for caption in read_captions(path):
        names = (caption.image, *(f"{prefix}{caption.image}" for prefix in SPLIT_PREFIXES))
        if (file := next((name for name in names if name in known), None)) is not None:
            yield file, clean(caption.text)


def _read_questions(source: Source) -> dict[str, str]:
    """Read the questions without an image that can become samples, by id, in order; of equal ids the first."""
    asked: dict[str, str] = {}
    for row in source.read(None):
        if isinstance(row, Sample) and not row.shown and row.question.strip():
            asked.setdefault(row.id, row.question)
    return asked


def _digest_questions(asked: Mapping[str, str]) -> str:
    return digest(list(asked.items()))


pair_images = make_stage(StageName.PAIR, _pair, place="processor")
