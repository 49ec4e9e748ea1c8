"""Videos of animations, folders and containers: which frames are shown, and what is refused before it is decoded."""

from __future__ import annotations

import io
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import cmrm.prompts.videos
from cmrm.errors import MissingPackageError, UserError
from cmrm.prompts.videos import open_video

SIZE = (48, 32)


def paint(number: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """A frame whose grey says its number."""
    return Image.new("RGB", size, (10 * number,) * 3)


def read_numbers(video) -> list[int]:
    return [round(np.asarray(frame).mean() / 10) for frame in video.frames]


def write_animation(path: Path, count: int, *, durations: list[int] | int = 100, **options: object) -> None:
    first, *others = map(paint, range(count))
    first.save(path, save_all=True, append_images=others, duration=durations, **options)


def write_video(
    path: Path,
    times: list[int],
    *,
    rate: int = 10,
    codec: str = "mpeg4",
    rotation: int = 0,
    picture: Image.Image | None = None,
    **options: str,
) -> None:
    """Write a video whose frames begin at `times`, in units of 1/rate seconds."""
    with av.open(path, "w") as out:
        stream = out.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height = SIZE if picture is None else picture.size
        stream.pix_fmt = "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_image(picture or paint(number))
            frame.pts, frame.time_base = time, Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_is_sampled_in_the_middle_of_equal_parts(tmp_path, suffix):
    write_animation(tmp_path / f"a.{suffix}", 16, **({"lossless": True} if suffix == "webp" else {}))
    video = open_video(tmp_path, f"a.{suffix}", frames=4)
    # 1.6 seconds in four parts: at 0.2, 0.6, 1.0 and 1.4 s.
    assert read_numbers(video) == [2, 6, 10, 14]
    assert (video.size, video.fps) == (SIZE, pytest.approx(4 / 1.6))
    whole = open_video(tmp_path, f"a.{suffix}", frames=99)
    assert read_numbers(whole) == list(range(16))
    assert whole.fps == pytest.approx(10)


def test_frames_of_different_lengths_are_sampled_by_time(tmp_path):
    write_animation(tmp_path / "a.gif", 4, durations=[100, 100, 100, 1700])
    # The middles of two halves of two seconds; frames without a duration last 0.1 s.
    assert read_numbers(open_video(tmp_path, "a.gif", frames=2)) == [3, 3]
    write_animation(tmp_path / "b.gif", 4, durations=0)
    assert open_video(tmp_path, "b.gif").fps == pytest.approx(10)


def test_a_folder_of_frames_is_read_by_the_numbers_in_its_names(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    for number in range(12):
        paint(number).save(folder / f"frame{number}.png")
    (folder / ".hidden").write_text("no frame")
    video = open_video(tmp_path, "clip", frames=12)
    assert (read_numbers(video), video.fps) == (list(range(12)), 1.0)
    assert read_numbers(open_video(tmp_path, "clip/", frames=3)) == [2, 6, 10]
    paint(1, (9, 9)).save(folder / "frame6.png")
    with pytest.raises(UserError, match=r"several sizes, such as 48 × 32 and 9 × 9"):
        open_video(tmp_path, "clip", frames=12)
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"video 'none' in .* has no frames"):
        open_video(tmp_path, "none")


def test_a_link_in_a_folder_of_frames_that_leads_out_of_the_root_is_refused(tmp_path):
    (tmp_path / "root" / "clip").mkdir(parents=True)
    paint(0).save(tmp_path / "secret.png")
    (tmp_path / "root" / "clip" / "0.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match=r"video 'clip/0\.png' lies outside"):
        open_video(tmp_path / "root", "clip")
    with pytest.raises(UserError, match=r"video '\.\./secret\.png' lies outside"):
        open_video(tmp_path / "root", "../secret.png")


@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [
        ("mp4", "mpeg4", {"g": "4"}),
        ("mov", "mpeg4", {}),
        ("mkv", "mpeg4", {}),
        ("webm", "libvpx-vp9", {}),
        ("mp4", "libx264", {"bf": "3", "g": "8"}),
    ],
)
def test_a_container_is_sampled_as_an_animation_is(tmp_path, suffix, codec, options):
    write_video(tmp_path / f"a.{suffix}", list(range(20)), codec=codec, **options)
    video = open_video(tmp_path, f"a.{suffix}", frames=5)
    assert read_numbers(video) == [2, 6, 10, 14, 18]
    assert (video.size, video.fps) == (SIZE, pytest.approx(2.5))
    assert read_numbers(open_video(tmp_path, f"a.{suffix}", frames=64)) == list(range(20))


def test_a_variable_frame_rate_is_sampled_by_time(tmp_path):
    write_video(tmp_path / "a.mkv", [0, 1, 2, 3, 30, 31])
    # 3.2 s (the last frame lasts 0.1 s): the middles of four parts are at 0.4, 1.2, 2.0 and 2.8 s.
    video = open_video(tmp_path, "a.mkv", frames=4)
    assert read_numbers(video) == [3, 3, 3, 3]
    assert video.fps == pytest.approx(4 / 3.2, rel=0.01)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_a_turned_video_is_shown_upright(tmp_path, rotation):
    picture = Image.new("RGB", SIZE, "black")
    picture.paste("white", (0, 0, 48, 8))
    write_video(tmp_path / "a.mp4", [0, 1], rotation=rotation, picture=picture)
    frame = np.asarray(open_video(tmp_path, "a.mp4").frames[0], dtype=int)
    expected = np.asarray(picture.rotate(rotation, expand=True), dtype=int)
    assert frame.shape == expected.shape
    assert np.abs(frame - expected).mean() < 8


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "gif", "webp"])
@pytest.mark.parametrize("kept", [0.1, 0.6])
def test_a_file_that_is_cut_off_is_refused_in_one_line(tmp_path, suffix, kept):
    path = tmp_path / f"a.{suffix}"
    if suffix in ("mp4", "mkv"):
        write_video(path, list(range(40)))
    else:
        noise = np.random.default_rng(0).integers(0, 256, (9, 32, 48, 3), dtype=np.uint8)
        first, *others = map(Image.fromarray, noise)
        first.save(path, save_all=True, append_images=others, duration=100)
    content = path.read_bytes()
    open_video(tmp_path, path.name)
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(UserError, match=rf"video 'a\.{suffix}' in ") as caught:
        open_video(tmp_path, path.name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        b"no video at all",
        b"",
    ],
)
def test_playlists_and_what_is_no_video_are_refused(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(UserError, match=r"none of the formats that are read: MP4 or QuickTime"):
        open_video(tmp_path, "a.mp4")


def test_limits_hold_before_anything_is_decoded(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", list(range(20)))
    write_animation(tmp_path / "a.gif", 20)
    videos = cmrm.prompts.videos
    with monkeypatch.context() as patched:
        patched.setattr(videos, "MAX_SHOWN_PIXELS", 48 * 32 * 3)
        for name in ("a.mp4", "a.gif"):
            with pytest.raises(UserError, match=r"48 × 32 pixels, of which 4 would be shown"):
                open_video(tmp_path, name, frames=4)
            open_video(tmp_path, name, frames=3)
    with monkeypatch.context() as patched:
        patched.setattr(videos, "MAX_DECODED_PIXELS", 48 * 32 * 10)
        for name in ("a.mp4", "a.gif"):
            with pytest.raises(UserError, match=r"takes more than 15,360 decoded pixels"):
                open_video(tmp_path, name)
    with monkeypatch.context() as patched:
        patched.setattr(videos, "MAX_FRAMES", 19)
        patched.setattr(cmrm.prompts.containers, "MAX_PACKETS", 19)
        for name, limit in (("a.mp4", "more than 19 packets"), ("a.gif", "has 20 frames, more than 19")):
            with pytest.raises(UserError, match=limit):
                open_video(tmp_path, name)
    monkeypatch.setattr(videos, "MAX_ANIMATION_BYTES", 100)
    with pytest.raises(UserError, match=r"longer than 9\.5[0-9e-]* MiB"):
        open_video(tmp_path, "a.gif")


def test_sound_alone_is_no_video(tmp_path):
    with av.open(tmp_path / "a.mp4", "w") as out:
        stream = out.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    with pytest.raises(UserError, match=r"has no video stream; give its sound as `audio`"):
        open_video(tmp_path, "a.mp4")


def test_without_pyav_animations_are_read_and_containers_name_the_package(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", [0, 1])
    write_animation(tmp_path / "a.gif", 3)
    monkeypatch.setitem(sys.modules, "av", None)
    assert len(open_video(tmp_path, "a.gif").frames) == 3
    with pytest.raises(MissingPackageError, match=r"needs the package av.*pip install 'cmrm\[video\]'"):
        open_video(tmp_path, "a.mp4")


def test_a_single_image_is_a_video_of_one_frame(tmp_path):
    buffer = io.BytesIO()
    paint(5).save(buffer, format="PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    video = open_video(tmp_path, "a.png")
    assert (read_numbers(video), video.fps) == ([5], pytest.approx(10))


def test_ffmpeg_guesses_no_format_and_is_told_no_path(tmp_path, monkeypatch):
    for name in ("a.mp4", "a.mkv"):
        write_video(tmp_path / name, [0, 1])
    plain, asked = av.open, []

    def note(file, *arguments, **options):
        asked.append((options.get("format"), isinstance(file, str | Path)))
        return plain(file, *arguments, **options)

    monkeypatch.setattr(av, "open", note)
    for name in ("a.mp4", "a.mkv"):
        open_video(tmp_path, name)
    assert asked == [("mov", False), ("matroska", False)]
