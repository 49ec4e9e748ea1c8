"""Videos: frames sampled evenly over the length of a sample's own, opened as untrusted input."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from cmrm.errors import UserError
from cmrm.prompts.containers import (
    VIDEO_CONTAINERS,
    find_container,
    open_container,
    read_packets,
    refuse_cut,
)
from cmrm.prompts.images import MAX_PIXELS, make_upright, read_image
from cmrm.prompts.media import Video
from cmrm.prompts.media_files import locate_medium, show_name
from cmrm.untrusted.printable import first_line
from cmrm.untrusted.regular_file import open_regular, read_regular

# The most frames that are shown where a data set says nothing, and may be.
FRAMES = 8
MOST_FRAMES = 1024
# Animations that Pillow reads.
ANIMATIONS = ("GIF", "WEBP", "PNG", "AVIF")
# Frames of a folder have no time of their own.
FOLDER_FPS = 1.0
# Browsers show a frame without a duration for so long, in milliseconds.
NO_DURATION = 100
_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
# Limits before decoding: frames of an animation or folder; pixels of the frames shown; pixels that are decoded to
# get at these, about a minute's work.
MAX_FRAMES = 20_000
MAX_SHOWN_PIXELS = 2**28
MAX_DECODED_PIXELS = 2**36
MAX_FRAME_BYTES = 64 * 2**20
MAX_ANIMATION_BYTES = 256 * 2**20


def open_video(root: Path, name: str, *, frames: int = FRAMES) -> Video:
    """Open the video `name` under the folder `root`: a file, or a folder with an image a frame, in order of numbers.

    At most `frames` frames are taken: those seen in the middle of equal parts of its length, also where frames stand
    for different times; all of a shorter one. RGB, upright, transparency over white. Raises `UserError` for what
    `locate_medium` refuses, for a file that is cut off, damaged, without frames or too large, and for frames of several
    sizes; `MissingPackageError` for a file that needs PyAV where that is not installed.
    """
    who = f"video {show_name(name)} in {root}"
    path, *inside = locate_medium(root, name, "video")
    if path.is_dir():
        return _read_folder(inside, who, frames)
    with open_regular(path) as file:
        container = find_container(file.read(12))
    if container in VIDEO_CONTAINERS:
        return _read_container(path, container, who, frames)
    return _read_animation(path, who, frames)


def choose_instants(count: int, start: Fraction, length: Fraction) -> list[Fraction]:
    """The middles of `count` equal parts of a length that begins at `start`."""
    return [start + length * (2 * part + 1) / (2 * count) for part in range(count)]


def _read_folder(paths: Sequence[Path], who: str, frames: int) -> Video:
    _refuse_length(len(paths), who)
    chosen = _choose([Fraction(1)] * len(paths), frames)
    shown: list[Image.Image] = []
    for place in chosen:
        data = read_regular(paths[place], most=MAX_FRAME_BYTES)
        shown.append(read_image(data, where=f"frame {show_name(paths[place].name)} of {who}"))
        _refuse_size(shown[0].size, len(chosen), who)
    return _make_video(shown, len(chosen) * FOLDER_FPS / len(paths), who)


def _read_animation(path: Path, who: str, frames: int) -> Video:
    """Read an animation by Pillow, or a single image."""
    try:
        # Pillow takes some formats into memory as a whole.
        data = BytesIO(read_regular(path, most=MAX_ANIMATION_BYTES))
        with Image.open(data, formats=ANIMATIONS) as image:
            count = getattr(image, "n_frames", 1)
            _refuse_length(count, who)
            _refuse_size(image.size, min(frames, count), who)
            _refuse_work(image.width * image.height * count, who)
            return _sample_animation(image, count, who, frames)
    except UserError:
        raise
    except Image.UnidentifiedImageError:
        known = ", ".join((*VIDEO_CONTAINERS.values(), *ANIMATIONS))
        raise UserError(
            f"{who} is of none of the formats that are read: {known}; convert the file or remove the row."
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{who} is too large ({error}); scale it down.") from None
    except Exception as error:  # noqa: BLE001 - on damaged bytes Pillow's decoders raise nearly any exception
        raise UserError(
            f"{who} cannot be read ({first_line(error)}); replace the file or remove the row."
        ) from None


def _sample_animation(image: Image.Image, count: int, who: str, frames: int) -> Video:
    lengths: list[Fraction] = []
    for number in range(count):
        image.seek(number)
        # WebP and AVIF say a frame's time once it is decoded; a damaged frame fails here.
        image.load()
        lengths.append(Fraction(image.info.get("duration") or NO_DURATION) / 1000)
    chosen = _choose(lengths, frames)
    shown = []
    for number in chosen:
        image.seek(number)
        shown.append(make_upright(image, who=who))
    return _make_video(shown, float(len(chosen) / sum(lengths)), who)


def _choose(lengths: Sequence[Fraction], frames: int) -> list[int]:
    """Choose among frames that are shown for `lengths` seconds."""
    starts = [Fraction(0)]
    for length in lengths:
        starts.append(starts[-1] + length)
    instants = choose_instants(min(frames, len(lengths)), Fraction(0), starts[-1])
    return [bisect_right(starts, instant) - 1 for instant in instants]


def _read_container(path: Path, container: str, who: str, frames: int) -> Video:
    with open_container(path, container, who=who) as opened:
        if not opened.streams.video:
            raise UserError(f"{who} has no video stream; give its sound as `audio`, or remove the row.")
        stream = opened.streams.video[0]
        times = _list_times(opened, stream, who)
        size = stream.codec_context.width, stream.codec_context.height
        count = min(frames, len(times.shown))
        _refuse_size(size, count, who)
        instants = choose_instants(count, Fraction(times.shown[0]), Fraction(times.end - times.shown[0]))
        shown = _decode(opened, stream, instants, times, who)
        seconds = float((times.end - times.shown[0]) * stream.time_base)
    return _make_video(shown, count / seconds, who)


@dataclass(frozen=True, kw_only=True)
class _Times:
    """When a stream's frames begin, in its ticks and order, which of these are keyframes, and the last one's end."""

    shown: Sequence[int]
    keys: Sequence[int]
    end: int


def _list_times(container: Any, stream: Any, who: str) -> _Times:
    """List a stream's frames without decoding any; `UserError` for a file that is cut off."""
    shown: list[int] = []
    keys: list[int] = []
    last_length = packets = 0
    end = 0.0
    for packet in read_packets(container, who=who):
        time = packet.pts if packet.pts is not None else packet.dts
        if packet.stream.index == stream.index:
            packets += 1
        if time is None or packet.is_discard:
            continue
        end = max(end, float((time + (packet.duration or 0)) * packet.time_base))
        if packet.stream.index == stream.index:
            shown.append(time)
            last_length = packet.duration or last_length
            if packet.is_keyframe:
                keys.append(time)
    if not shown:
        raise UserError(f"{who} has no frames; replace the file or remove the row.")
    if packets < stream.frames:
        raise UserError(
            f"{who} is cut off: it has {stream.frames} frames by its header, and data of {packets}; replace the file "
            "or remove the row."
        )
    refuse_cut(end, container.duration, who=who)
    shown.sort()
    return _Times(shown=shown, keys=sorted(keys), end=shown[-1] + max(last_length, 1))


def _decode(
    container: Any, stream: Any, instants: Sequence[Fraction], times: _Times, who: str
) -> list[Image.Image]:
    """Decode the frame that is seen at each instant, from the keyframe before it."""
    # One thread: several videos are read beside each other.
    stream.codec_context.thread_count = 1
    shown: list[Image.Image] = []
    decoded: Iterator[Any] = iter(())
    held = ahead = None
    pixels = 0
    for instant in instants:
        key = bisect_right(times.keys, instant) - 1
        if held is None or (key >= 0 and times.keys[key] > max(held.pts, ahead.pts if ahead else held.pts)):
            container.seek(times.keys[max(key, 0)] if times.keys else times.shown[0], stream=stream)
            decoded, held, ahead = container.decode(stream), None, None
        while ahead is None or ahead.pts <= instant:
            held = ahead or held
            if (ahead := next(decoded, None)) is None:
                break
            pixels += ahead.width * ahead.height
            _refuse_work(pixels, who)
        held = ahead if held is None else held
        if held is None:
            raise UserError(f"{who} has no frame that can be decoded; replace the file or remove the row.")
        shown.append(_turn(held.to_image(), held.rotation))
    return shown


def _turn(image: Image.Image, degrees: int) -> Image.Image:
    """Turn a frame counterclockwise, as the file says that it is shown."""
    if not (angle := degrees % 360):
        return image
    if angle not in _TURNS:
        raise ValueError(f"it is turned by {degrees} degrees, which is no quarter turn")
    return image.transpose(_TURNS[angle])


def _make_video(shown: Sequence[Image.Image], fps: float, who: str) -> Video:
    sizes = list(dict.fromkeys(frame.size for frame in shown))
    if len(sizes) > 1:
        listed = " and ".join(f"{width} × {height}" for width, height in sizes[:2])
        raise UserError(f"{who} has frames of several sizes, such as {listed}; scale them to one.")
    return Video(frames=tuple(shown), fps=fps)


def _refuse_length(count: int, who: str) -> None:
    if not count:
        raise UserError(f"{who} has no frames; add them or remove the row.")
    if count > MAX_FRAMES:
        raise UserError(f"{who} has {count:,} frames, more than {MAX_FRAMES:,}; cut it shorter.")


def _refuse_size(size: tuple[int, int], count: int, who: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS or width * height * count > MAX_SHOWN_PIXELS:
        raise UserError(
            f"{who} has frames of {width} × {height} pixels, of which {count} would be shown: more than {MAX_PIXELS:,} "
            f"pixels in one or {MAX_SHOWN_PIXELS:,} in all; scale it down, or show fewer `frames`."
        )


def _refuse_work(pixels: int, who: str) -> None:
    if pixels > MAX_DECODED_PIXELS:
        raise UserError(
            f"{who} takes more than {MAX_DECODED_PIXELS:,} decoded pixels to get at the frames shown; scale it down, "
            "cut it shorter, or write it with more keyframes."
        )
