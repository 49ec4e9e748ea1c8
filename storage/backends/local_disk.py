"""Backend on a local or shared disk: each file is written atomically, by one rename."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Hashable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, BinaryIO

from storage.errors import NotAFileError, StoreError, explained
from storage.records.layout import check_file

_ATTEMPTS = 5
# The folder of recovered files at a disk's root, readable by root alone.
_FOUND = "lost+found"
_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.tmp")
_FINISHED = re.compile(r"[^.].*", re.DOTALL)


class DiskFiles:
    """A folder on a disk.

    With a `mark`, the name of a file that is written first, nothing else is written while that file is missing: an
    unmounted disk leaves an empty mount point, which must not be filled.
    """

    def __init__(self, root: Path, *, mark: str | None = None) -> None:
        self.root = root.absolute()
        self._mark = mark

    @property
    def url(self) -> str:
        return str(self.root)

    def exists(self) -> bool:
        with explained("access", self.url):
            return self.root.is_dir()

    def path(self, name: str) -> Path:
        """The path of a file on the disk; raises StoreError if a symlink leads out of the folder."""
        place = self.root / check_file(name)
        real = os.path.realpath(place)
        # If no symlink was followed, there is none in the root's own path either.
        if real != str(place) and not Path(real).is_relative_to(self.root.resolve()):
            raise StoreError(
                f"{place} leads out of the store {self.root}: replace the link by the files themselves"
            )
        return place

    def write(self, path: str, source: bytes | Path) -> None:
        place = self.path(path)
        with explained("write", str(place)):
            if path != self._mark:
                self._check_mark()
            unfinished = self._write_unfinished(place.parent, source)
            try:
                unfinished.replace(place)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
            _sync(place.parent)

    def create(self, path: str, data: bytes) -> bool:
        place = self.path(path)
        with explained("write", str(place)):
            self._check_mark()
            unfinished = self._write_unfinished(place.parent, data)
            try:
                # Unlike a rename, a link replaces nothing.
                os.link(unfinished, place)
            except FileExistsError:
                return False
            except OSError:
                return self._create_without_links(place, data)
            finally:
                unfinished.unlink(missing_ok=True)
            _sync(place.parent)
        return True

    def scratch(self, folder: str) -> Path:
        place = self.path(folder)
        with explained("write", str(place)):
            self._check_mark()
            unfinished, stream = self._begin(place)
            stream.close()
        return unfinished

    def adopt(self, path: str, scratch: Path) -> None:
        place = self.path(path)
        with explained("write", str(place)):
            self._check_mark()
            _make(place.parent)
            try:
                scratch.replace(place)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                self.write(path, scratch)
                scratch.unlink()
            _sync(place.parent)

    def copy(self, source: str, path: str) -> None:
        original, place = self.path(source), self.path(path)
        if self.size(source) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(original))
        with explained("write", str(place)):
            self._check_mark()
            _make(place.parent)
            second = place.with_name(f".{uuid.uuid4().hex}.tmp")
            try:
                os.link(original, second)
                # gc tells files of a running commit from abandoned ones by their age.
                os.utime(second)
                second.replace(place)
                _sync(place.parent)
            except OSError:
                # Not every file system has hard links.
                if original.exists():
                    self.write(path, original)
            finally:
                # A rename between two hard links of one file leaves both.
                second.unlink(missing_ok=True)
        if not place.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(original))

    def open(self, path: str) -> IO[bytes]:
        place = self.path(path)
        try:
            stream = open(place, "rb", opener=_open_at_once)  # noqa: SIM115 - the caller closes it
        except FileNotFoundError:
            raise
        except OSError:
            with explained("read", str(place)):
                raise
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            stream.close()
            raise NotAFileError(f"{place} is no file but a FIFO, a device or the like: move it away")
        return stream

    def read_many(self, paths: Sequence[str]) -> Iterator[tuple[str, bytes | None]]:
        for path in paths:
            try:
                with self.open(path) as stream, explained("read", f"{self.url}/{path}"):
                    yield path, stream.read()
            except FileNotFoundError:
                yield path, None

    def size(self, path: str) -> int | None:
        place = self._locate(path)
        with explained("access", str(place)):
            try:
                return place.stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def sizes(self, folder: str) -> dict[str, int]:
        top = self._folder(folder)
        sizes: dict[str, int | None] = {}
        with explained("list", str(top)):
            for path, entry in self._walk(top):
                # A link may lead out of the folder; all else is where the listing found it.
                sizes[path] = self.size(path) if entry.is_symlink() else _measure(entry)
        return {path: size for path, size in sorted(sizes.items()) if size is not None}

    def stamp(self, path: str) -> Hashable | None:
        place = self._locate(path)
        with explained("access", str(place)):
            try:
                found = place.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def modified(self, path: str) -> datetime | None:
        place = self._locate(path)
        with explained("access", str(place)):
            try:
                return datetime.fromtimestamp(place.stat().st_mtime, UTC)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def unfinished(self) -> list[str]:
        with explained("list", str(self.root)):
            return sorted(path for path, _ in self._walk(self.root, names=_UNFINISHED))

    def under(self, folder: str) -> list[str]:
        top = self._folder(folder)
        with explained("list", str(top)):
            return sorted(path for path, _ in self._walk(top))

    def remove(self, path: str) -> None:
        place = self._locate(path)
        with explained("remove", str(place)):
            place.unlink(missing_ok=True)

    def prune(self, folder: str) -> None:
        place = self.path(folder)
        # Another process may be writing here: then the folder is not empty, and stays.
        with contextlib.suppress(OSError):
            place.rmdir()

    def _walk(self, top: Path, names: re.Pattern[str] = _FINISHED) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Iterate over the files of such names in a folder and those below it, with their paths; links are files."""
        folders = [top]
        while folders:
            place = folders.pop()
            here = place.relative_to(self.root).as_posix() + "/" if place != self.root else ""
            with contextlib.suppress(FileNotFoundError), os.scandir(place) as entries:
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        if names.fullmatch(entry.name) and not _is_folder(entry):
                            yield here + entry.name, entry
                    elif _FINISHED.fullmatch(entry.name) and entry.name != _FOUND:
                        folders.append(place / entry.name)

    def _locate(self, path: str) -> Path:
        """The path of a file, which may be unfinished."""
        folder, separator, name = path.rpartition("/")
        if not _UNFINISHED.fullmatch(name):
            return self.path(path)
        return (self.path(folder) if separator else self.root) / name

    def _folder(self, name: str) -> Path:
        """The path of a folder on the disk, the root for ''."""
        return self.path(name) if name else self.root

    def _write_unfinished(self, folder: Path, source: bytes | Path) -> Path:
        unfinished, stream = self._begin(folder)
        try:
            with stream:
                if isinstance(source, bytes):
                    stream.write(source)
                else:
                    with source.open("rb") as original:
                        shutil.copyfileobj(original, stream, 1 << 20)
                stream.flush()
                os.fsync(stream.fileno())
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        return unfinished

    def _create_without_links(self, place: Path, data: bytes) -> bool:
        """Create a file where the file system has no hard links; a reader may see it half written."""
        try:
            with place.open("xb") as stream:
                stream.write(data)
                os.fsync(stream.fileno())
        except FileExistsError:
            return False
        _sync(place.parent)
        return True

    def _begin(self, folder: Path) -> tuple[Path, BinaryIO]:
        unfinished = folder / f".{uuid.uuid4().hex}.tmp"
        for _ in range(_ATTEMPTS):
            _make(folder)
            # The folder can only vanish here if another process prunes it.
            with contextlib.suppress(FileNotFoundError):
                return unfinished, unfinished.open("xb")
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))

    def _check_mark(self) -> None:
        if self._mark is not None and not (self.root / self._mark).is_file():
            raise FileNotFoundError(errno.ENOENT, f"the store is gone: it has no {self._mark}")


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without blocking, as on a FIFO without a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether a link leads to a folder."""
    try:
        return entry.is_dir()
    except OSError:
        return False  # what it leads to cannot be looked at


def _measure(entry: os.DirEntry[str]) -> int | None:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return None


def _make(folder: Path) -> None:
    for place in reversed([folder, *folder.parents]):
        if not place.is_dir():
            place.mkdir(exist_ok=True)
            _sync(place.parent)


def _sync(folder: Path) -> None:
    # A rename is durable only after an fsync of its folder.
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
