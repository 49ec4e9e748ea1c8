"""Sounds of WAV files and other containers: samples, channels and rates, and what is refused before it is decoded."""

from __future__ import annotations

import struct
import sys
import wave
from pathlib import Path

import av
import numpy as np
import pytest

import cmrm.prompts.sounds
from cmrm.errors import MissingPackageError, UserError
from cmrm.prompts.sounds import open_audio

RATE = 8000
# A tone of 440 Hz at half of full scale, a quarter of a second; the other channel is silent.
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE // 4) / RATE)).astype(np.float64)


def encode_samples(samples: np.ndarray, code: int, bits: int) -> bytes:
    """Encode −1…1 as the samples of a WAV file, by struct's and numpy's own rules."""
    if code == 3:
        return samples.astype(f"<f{bits // 8}").tobytes()
    scaled = np.clip(np.round(samples * 2 ** (bits - 1)), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(int)
    if bits == 8:
        return bytes((scaled + 128).tolist())
    return b"".join(int(one).to_bytes(bits // 8, "little", signed=True) for one in scaled)


def write_wav(
    path: Path, channels: list[np.ndarray], code: int, bits: int, *, extensible: bool = False
) -> None:
    block = len(channels) * bits // 8
    data = encode_samples(np.stack(channels, axis=1).reshape(-1), code, bits)
    layout = struct.pack(
        "<HHLLHH", 0xFFFE if extensible else code, len(channels), RATE, RATE * block, block, bits
    )
    if extensible:
        layout += struct.pack("<HHLH14s", 22, bits, 0, code, bytes(14))
    # A chunk of odd length comes before the samples.
    chunks = b"".join(
        kind + struct.pack("<L", len(content)) + content + bytes(len(content) % 2)
        for kind, content in ((b"fmt ", layout), (b"LIST", b"odd"), (b"data", data))
    )
    path.write_bytes(b"RIFF" + struct.pack("<L", 4 + len(chunks)) + b"WAVE" + chunks)


def write_container(
    path: Path, codec: str, *, layout: str = "mono", rate: int = 16000, seconds: float = 1.0
) -> None:
    with av.open(path, "w") as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        times = np.arange(int(rate * seconds)) / rate
        tone = (0.5 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
        planes = np.stack([tone, *([np.zeros_like(tone)] if layout == "stereo" else [])])
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
        frame.rate = rate
        resampler = av.AudioResampler(
            format=stream.codec_context.format, layout=layout, rate=rate, frame_size=stream.frame_size or None
        )
        for one in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(one))
        out.mux(stream.encode())


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize(("code", "bits"), [(1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64)])
def test_a_wav_file_is_the_mean_of_its_channels_at_its_own_rate(tmp_path, code, bits, extensible):
    write_wav(tmp_path / "a.wav", [TONE, np.zeros_like(TONE)], code, bits, extensible=extensible)
    audio = open_audio(tmp_path, "a.wav")
    assert (audio.rate, audio.samples.dtype, audio.seconds) == (RATE, np.float32, 0.25)
    assert np.abs(audio.samples - TONE / 2).max() <= 2.0**-bits + 1e-7


def test_pythons_own_writer_is_read(tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(struct.pack("<3h", -32768, 0, 16384))
    assert open_audio(tmp_path, "a.wav").samples.tolist() == [-1.0, 0.0, 0.5]


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0])
def test_a_wav_file_of_a_pipe_without_a_length_is_read_to_its_end(tmp_path, length):
    write_wav(tmp_path / "a.wav", [TONE], 1, 16)
    content = (tmp_path / "a.wav").read_bytes()
    place = content.index(b"data") + 4
    (tmp_path / "a.wav").write_bytes(content[:place] + struct.pack("<L", length) + content[place + 4 :])
    assert len(open_audio(tmp_path, "a.wav").samples) == len(TONE)


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("flac", "flac"), ("mp3", "libmp3lame"), ("ogg", "libopus"), ("m4a", "aac"), ("webm", "libopus")],
)
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_other_containers_are_read_as_they_sound(tmp_path, suffix, codec, layout):
    rate = 48000 if codec == "libopus" else 16000
    write_container(tmp_path / f"a.{suffix}", codec, layout=layout, rate=rate)
    audio = open_audio(tmp_path, f"a.{suffix}")
    assert audio.rate == rate
    assert audio.seconds == pytest.approx(1, abs=0.1)
    spectrum = np.abs(np.fft.rfft(audio.samples))
    assert spectrum.argmax() / audio.seconds == pytest.approx(440, abs=2)
    expected = 0.5 if layout == "mono" else 0.25
    assert np.sqrt(2 * np.mean(audio.samples[rate // 4 : rate // 2] ** 2)) == pytest.approx(
        expected, abs=0.03
    )


def test_a_sound_of_eight_channels_is_the_mean_of_them(tmp_path):
    levels = np.arange(8, dtype=np.int16) * 1000
    with av.open(tmp_path / "a.flac", "w") as out:
        stream = out.add_stream("flac", rate=RATE, layout="7.1")
        frame = av.AudioFrame.from_ndarray(np.tile(levels, RATE)[None], format="s16", layout="7.1")
        frame.rate = RATE
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    audio = open_audio(tmp_path, "a.flac")
    assert np.array_equal(audio.samples, np.full(RATE, levels.mean() / 2**15, dtype=np.float32))


def test_a_long_wav_file_is_mixed_in_pieces(tmp_path, monkeypatch):
    write_wav(tmp_path / "a.wav", [TONE, np.zeros_like(TONE)], 1, 24)
    whole = open_audio(tmp_path, "a.wav").samples
    monkeypatch.setattr(cmrm.prompts.sounds, "_PIECE", 300)
    assert np.array_equal(open_audio(tmp_path, "a.wav").samples, whole)
    assert np.allclose(whole, TONE / 2, atol=2**-23)


def test_the_sound_of_a_video_is_a_sound(tmp_path):
    write_container(tmp_path / "a.mp4", "aac")
    assert open_audio(tmp_path, "a.mp4").rate == 16000


def corrupt(content: bytes, at: bytes, offset: int, new: bytes) -> bytes:
    place = content.index(at) + offset
    return content[:place] + new + content[place + len(new) :]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda wav: wav[:-100], r"is cut off: it has 4,000 bytes of samples by its header, and 3,900"),
        (lambda wav: wav[:30], "is cut off or has no samples"),
        (lambda wav: wav[: wav.index(b"data") + 4] + bytes(4), "has no samples"),
        (lambda wav: corrupt(wav, b"fmt ", 8, b"\x55\0"), "16 bits in the format 85"),
        (lambda wav: corrupt(wav, b"fmt ", 10, b"\0\0"), "0 channels"),
        (lambda wav: corrupt(wav, b"fmt ", 12, b"\xff\xff\xff\xff"), "4294967295 samples a second"),
        (lambda wav: corrupt(wav, b"fmt ", 4, b"\xff\xff\xff\x7f"), "is cut off or has no samples"),
        (lambda _: b"no sound at all", "none of the formats that are read: WAV, MP4"),
        (lambda _: b"#EXTM3U\n/etc/hostname\n", "none of the formats"),
        (lambda _: b"", "none of the formats"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path, change, reason):
    write_wav(tmp_path / "a.wav", [TONE], 1, 16)
    (tmp_path / "a.wav").write_bytes(change((tmp_path / "a.wav").read_bytes()))
    with pytest.raises(UserError, match=reason) as caught:
        open_audio(tmp_path, "a.wav")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused(tmp_path, odd):
    write_wav(tmp_path / "a.wav", [np.array([0.1, odd])], 3, 32)
    with pytest.raises(UserError, match="not finite"):
        open_audio(tmp_path, "a.wav")


@pytest.mark.parametrize("kept", [0.1, 0.5])
def test_a_container_that_is_cut_off_is_refused(tmp_path, kept):
    write_container(tmp_path / "a.webm", "libopus", rate=48000, seconds=4)
    content = (tmp_path / "a.webm").read_bytes()
    (tmp_path / "a.webm").write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(UserError, match=r"audio 'a\.webm' in .* (cut off|cannot be read)"):
        open_audio(tmp_path, "a.webm")


@pytest.mark.parametrize(("limit", "most"), [("MAX_SECONDS", 0.2), ("MAX_SAMPLES", 1000)])
def test_limits_hold_while_a_file_is_read(tmp_path, monkeypatch, limit, most):
    write_wav(tmp_path / "a.wav", [TONE], 1, 16)
    write_container(tmp_path / "a.flac", "flac")
    monkeypatch.setattr(cmrm.prompts.sounds, limit, most)
    for name in ("a.wav", "a.flac"):
        with pytest.raises(UserError, match="is longer than"):
            open_audio(tmp_path, name)


def test_a_file_outside_of_the_root_is_refused(tmp_path):
    (tmp_path / "root").mkdir()
    write_wav(tmp_path / "a.wav", [TONE], 1, 16)
    (tmp_path / "root" / "link.wav").symlink_to(tmp_path / "a.wav")
    for name in ("../a.wav", "link.wav"):
        with pytest.raises(UserError, match="lies outside"):
            open_audio(tmp_path / "root", name)


def test_without_pyav_wav_is_read_and_others_name_the_package(tmp_path, monkeypatch):
    write_wav(tmp_path / "a.wav", [TONE], 1, 16)
    write_container(tmp_path / "a.flac", "flac")
    monkeypatch.setitem(sys.modules, "av", None)
    assert open_audio(tmp_path, "a.wav").rate == RATE
    with pytest.raises(MissingPackageError, match=r"pip install 'cmrm\[video\]'"):
        open_audio(tmp_path, "a.flac")
