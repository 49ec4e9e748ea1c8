"""Media of a prompt: images, videos and sound, as a sample names them and as a model is shown them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cmrm.prompts.images import digest_pixels

MediumKind = Literal["image", "video", "audio"]
KINDS: tuple[MediumKind, ...] = get_args(MediumKind)


@dataclass(frozen=True, kw_only=True)
class Medium:
    """A medium that a sample names: its kind, and a file name relative to the data set's folder.

    `frames` is the most frames that are shown of a video (`cmrm.prompts.videos.FRAMES` if None), None for others.

    >>> import cmrm
    >>> pair = tuple(cmrm.Medium(kind="image", name=name) for name in ("before.png", "after.png"))
    >>> sample = cmrm.Sample(id="1", dataset="mine", question="what changed?", harmful=False, media=pair)
    >>> [medium.name for medium in sample.media]
    ['before.png', 'after.png']
    """

    kind: MediumKind
    name: str
    frames: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"medium kind {self.kind!r} is unknown; use one of {', '.join(KINDS)}")
        if self.frames is not None and (self.kind != "video" or self.frames < 1):
            raise ValueError(f"{self.frames} frames of {self.kind} are asked for; give 1 or more of a video")


@dataclass(frozen=True, kw_only=True)
class Video:
    """An opened video: RGB frames of one size in order, and how many of them are shown a second.

    >>> from PIL import Image
    >>> import cmrm
    >>> video = cmrm.Video(frames=(Image.new("RGB", (8, 6)), Image.new("RGB", (8, 6), "white")), fps=2.0)
    >>> len(video.frames), video.size, video.seconds
    (2, (8, 6), 1.0)
    """

    frames: tuple[Image.Image, ...]
    fps: float

    def __post_init__(self) -> None:
        if not self.frames:
            raise ValueError("a video has no frames; give at least one")
        if any(frame.mode != "RGB" or frame.size != self.size for frame in self.frames):
            raise ValueError("the frames of a video are not all RGB and of one size; convert them")
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"a video has {self.fps} frames a second; give a number above 0")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of its frames in pixels."""
        return self.frames[0].size

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.frames) / self.fps


# Arrays have no truth value, so that two sounds cannot be compared as other dataclasses are.
@dataclass(frozen=True, kw_only=True, eq=False)
class Audio:
    """An opened sound: float32 [samples], one channel, −1 to 1; `rate` is its samples a second.

    >>> import cmrm
    >>> import numpy as np
    >>> cmrm.Audio(samples=np.zeros(8_000, dtype=np.float32), rate=16_000).seconds
    0.5
    """

    samples: NDArray[np.float32]
    rate: int

    def __post_init__(self) -> None:
        if self.samples.ndim != 1 or self.samples.dtype != np.float32:
            kind = f"{self.samples.dtype} {list(self.samples.shape)}"
            raise ValueError(f"the samples of a sound are {kind}; give float32 [samples] of one channel")
        if not len(self.samples) or not np.isfinite(self.samples).all():
            raise ValueError("a sound has no samples, or some that are not finite")
        if self.rate <= 0:
            raise ValueError(f"a sound has {self.rate} samples a second; give a number above 0")

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.rate


LoadedMedium = Image.Image | Video | Audio


def get_kind(medium: LoadedMedium) -> MediumKind:
    """Name the kind of an opened medium."""
    match medium:
        case Video():
            return "video"
        case Audio():
            return "audio"
        case _:
            return "image"


def goes_alone(kinds: Iterable[MediumKind]) -> bool:
    """Whether a prompt with media of these kinds is prefilled by itself, as one with video or sound is.

    Many processors stack videos of one length only, or take no images beside them; some let padding change the states.
    """
    return any(kind != "image" for kind in kinds)


def check_media(image: object | None, kinds: Sequence[MediumKind]) -> None:
    """Raise `ValueError` for one image given as `media`, and for an image beside `media`."""
    if image is not None and kinds:
        raise ValueError("an image and media are given; name all of them in `media`, in order")
    if kinds == ["image"]:
        raise ValueError("one image is given as media; give it as `image`")


def digest_medium(medium: LoadedMedium) -> str:
    """Compute a SHA-256 digest that is equal for media that a model cannot tell apart, as `digest_pixels` does."""
    if isinstance(medium, Image.Image):
        return digest_pixels(medium)
    if isinstance(medium, Video):
        shown = " ".join(digest_pixels(frame) for frame in medium.frames)
        return hashlib.sha256(f"video {medium.fps!r} {shown}".encode()).hexdigest()
    digest = hashlib.sha256(f"audio {medium.rate} ".encode())
    digest.update(np.ascontiguousarray(medium.samples, dtype="<f4").tobytes())
    return digest.hexdigest()
