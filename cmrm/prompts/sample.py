"""Samples (one request each), and rejected rows, which go to quarantine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cmrm.prompts.media import Medium, check_media


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One request to a model.

    `image` is a file name relative to the data set's image folder, and so are those of `media`, which a sample with at
    least two images, or any video or sound, names in order in its place. `harmful` says whether a good model refuses.
    `context` describes the image in words for judges. `group` is the text by which the split groups samples, None for
    the question. `twin` is a text that a harmful sample and its harmless twin share, and no other of the data set.
    `removed` is what was removed from the question of the file (an image's marker).
    `line` is the sample's line in its file (1 = first), for messages; it is not part of the sample's identity.

    >>> import cmrm
    >>> sample = cmrm.Sample(id="1", dataset="mine", question="what is a wug?", harmful=False, category="words")
    >>> sample.question, sample.image
    ('what is a wug?', None)
    """

    id: str
    dataset: str
    question: str
    harmful: bool
    image: str | None = None
    caption: str | None = None
    category: str | None = None
    reference: str | None = None
    context: str | None = None
    group: str | None = None
    twin: str | None = None
    removed: str | None = None
    media: tuple[Medium, ...] = ()
    line: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        check_media(self.image, [medium.kind for medium in self.media])

    @property
    def shown(self) -> tuple[Medium, ...]:
        """All that is shown with the question, in order: the image, or the media."""
        return self.media if self.image is None else (Medium(kind="image", name=self.image),)

    def rename(self, names: Sequence[str]) -> Sample:
        """Return the sample with other file names of what is `shown`, in its order."""
        if self.image is not None:
            return replace(self, image=names[0])
        return replace(self, media=tuple(map(_rename, self.media, names)))


def _rename(medium: Medium, name: str) -> Medium:
    return replace(medium, name=name)


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A quarantined row, with its line (1 = first) and the reason; `raw` is truncated to 500 characters."""

    dataset: str
    line: int
    id: str | None
    reason: str
    raw: str
