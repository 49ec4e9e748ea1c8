"""Sounds: a sample's own, opened as untrusted input, mixed to one channel."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cmrm.errors import UserError
from cmrm.prompts.containers import (
    AUDIO_CONTAINERS,
    find_container,
    open_container,
    read_packets,
    refuse_cut,
)
from cmrm.prompts.media import Audio
from cmrm.prompts.media_files import locate_file, show_name
from cmrm.untrusted.regular_file import open_regular

# Limits before decoding: an hour, so many samples once mixed (1 GiB), and so many channels and samples a second.
MAX_SECONDS = 3600.0
MAX_SAMPLES = 2**28
MAX_CHANNELS = 64
MAX_RATE = 768_000
MAX_BYTES = 2**30
# Format codes of a WAV file.
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
# Samples that are mixed at once: as floats they take several times the bytes of the file.
_PIECE = 2**20
# What a writer that cannot seek back leaves as a length.
_UNKNOWN_LENGTHS = (0, 0xFFFFFFFF, 0x7FFFFFFF)


def open_audio(root: Path, name: str) -> Audio:
    """Open the sound `name` under the folder `root`: the mean of its channels, at its own rate.

    WAV of 8, 16, 24 and 32 bits and of floats needs nothing; other containers, of video too, need PyAV. Raises
    `UserError` for what `locate_file` refuses, and for a file that is cut off, damaged, without samples or too long;
    `MissingPackageError` where PyAV is needed and not installed.
    """
    who = f"audio {show_name(name)} in {root}"
    path = locate_file(root, name, "audio")
    with open_regular(path) as file:
        start = file.read(12)
        if start[:4] in (b"RIFF", b"RF64") and start[8:] == b"WAVE":
            return _read_wav(file, who)
    container = find_container(start)
    if container is None:
        known = ", ".join(("WAV", *AUDIO_CONTAINERS.values()))
        raise UserError(
            f"{who} is of none of the formats that are read: {known}; convert the file or remove the row."
        )
    return _read_container(path, container, who)


def _read_wav(file: IO[bytes], who: str) -> Audio:
    layout = None
    while len(head := file.read(8)) == 8:
        kind, length = struct.unpack("<4sL", head)
        if kind == b"data":
            if layout is None:
                raise UserError(f"{who} has samples before their format; write it again.")
            return _read_samples(file, length, layout, who)
        if length > MAX_BYTES:
            break
        content = file.read(length + length % 2)
        if len(content) < length:
            break
        if kind == b"fmt ":
            layout = _read_layout(content, who)
    raise UserError(f"{who} is cut off or has no samples; replace the file or remove the row.")


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How a WAV file holds samples: the code of their format, channels, samples a second, and bytes of one."""

    code: int
    channels: int
    rate: int
    width: int

    @property
    def block(self) -> int:
        """Bytes of the samples of all channels at one time."""
        return self.channels * self.width


def _read_layout(content: bytes, who: str) -> _Layout:
    """Read the chunk `fmt `."""
    if len(content) < 16:
        raise UserError(f"{who} is damaged: its format takes {len(content)} bytes; write it again.")
    code, channels, rate, _, block, bits = struct.unpack_from("<HHLLHH", content)
    if code == _EXTENSIBLE and len(content) >= 26:
        (code,) = struct.unpack_from("<H", content, 24)
    width = bits // 8
    known = (code == _PCM and bits in (8, 16, 24, 32)) or (code == _FLOAT and bits in (32, 64))
    if not known:
        raise UserError(
            f"{who} has {bits} bits in the format {code}; write it as PCM of 8, 16, 24 or 32 bits, or as floats."
        )
    if not 1 <= channels <= MAX_CHANNELS or not 1 <= rate <= MAX_RATE or block != width * channels:
        raise UserError(
            f"{who} has {channels} channels of {rate} samples a second in {block} bytes, which is more than is read or "
            "does not fit together; write it again."
        )
    return _Layout(code=code, channels=channels, rate=rate, width=width)


def _read_samples(file: IO[bytes], length: int, layout: _Layout, who: str) -> Audio:
    most = min(_count_most(layout.rate) * layout.block, MAX_BYTES)
    unknown = length in _UNKNOWN_LENGTHS
    if not unknown and length > most:
        raise _too_long(who)
    data = file.read(most + 1 if unknown else length)
    if len(data) > most:
        raise _too_long(who)
    if not unknown and len(data) < length:
        raise UserError(
            f"{who} is cut off: it has {length:,} bytes of samples by its header, and {len(data):,}; replace the file "
            "or remove the row."
        )
    data = data[: len(data) // layout.block * layout.block]
    size = layout.block * _PIECE
    pieces = (data[start : start + size] for start in range(0, len(data), size))
    scaled = (_scale(piece, layout.code, layout.width) for piece in pieces)
    return _join([_mix(one.reshape(-1, layout.channels)) for one in scaled], layout.rate, who)


def _scale(data: bytes, code: int, width: int) -> NDArray[Any]:
    if code == _FLOAT:
        return np.frombuffer(data, dtype=f"<f{width}").astype(np.float32)
    if width == 1:
        return (np.frombuffer(data, dtype=np.uint8).astype(np.float32) - 128) / 128
    if width == 3:
        # Four bytes with the lowest empty, so that the sign comes along.
        padded = np.zeros((len(data) // 3, 4), dtype=np.uint8)
        padded[:, 1:] = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3)
        return (padded.view("<i4")[:, 0] / 2**31).astype(np.float32)
    return (np.frombuffer(data, dtype=f"<i{width}") / 2 ** (8 * width - 1)).astype(np.float32)


def _read_container(path: Path, container: str, who: str) -> Audio:
    with open_container(path, container, who=who) as opened:
        if not opened.streams.audio:
            raise UserError(f"{who} has no sound; replace the file or remove the row.")
        stream = opened.streams.audio[0]
        rate, channels = stream.rate, stream.channels
        if not 1 <= channels <= MAX_CHANNELS or not 1 <= rate <= MAX_RATE:
            raise UserError(f"{who} has {channels} channels of {rate} samples a second; write it again.")
        from av import AudioResampler

        # To floats; the layout and the rate stay as they are. Not to planes: of eight, PyAV 18.1 reads a ninth, beyond
        # the frame's memory.
        plain = AudioResampler(format="flt", layout=stream.layout, rate=rate)
        parts: list[NDArray[Any]] = []
        count, end = 0, 0.0
        for packet in read_packets(opened, who=who):
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != stream.index:
                continue
            for frame in packet.decode():
                parts += [_read_frame(part, channels) for part in plain.resample(frame)]
                count += frame.samples
                if count > _count_most(rate):
                    raise _too_long(who)
        last = (part for frame in stream.decode(None) for part in plain.resample(frame))
        parts += [_read_frame(part, channels) for part in (*last, *plain.resample(None))]
        refuse_cut(end, opened.duration, who=who)
    return _join(parts, rate, who)


def _read_frame(frame: Any, channels: int) -> NDArray[np.float32]:
    """Read a frame of floats, which hold all channels of one sample beside each other, as their mean."""
    return _mix(frame.to_ndarray().reshape(-1, channels))


def _mix(channels: NDArray[Any]) -> NDArray[np.float32]:
    """Mix [samples, channels] to their mean."""
    mixed: NDArray[np.float32] = channels.mean(axis=1, dtype=np.float64).astype(np.float32)
    return mixed


def _join(parts: Sequence[NDArray[np.float32]], rate: int, who: str) -> Audio:
    samples = np.concatenate(parts) if parts else np.empty(0, np.float32)
    if not len(samples):
        raise UserError(f"{who} has no samples; replace the file or remove the row.")
    if not np.isfinite(samples).all():
        raise UserError(f"{who} has samples that are not finite; replace the file or remove the row.")
    return Audio(samples=np.clip(samples, -1, 1), rate=rate)


def _count_most(rate: int) -> int:
    return min(int(MAX_SECONDS * rate), MAX_SAMPLES)


def _too_long(who: str) -> UserError:
    return UserError(
        f"{who} is longer than {MAX_SECONDS:.0f} seconds, {MAX_SAMPLES:,} samples or {MAX_BYTES:,} bytes; cut it "
        "shorter."
    )
