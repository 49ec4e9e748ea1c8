"""Images, videos and sounds that rows name by URL: prefetched by threads, stored as files, and cached by their URL.

A fetched file is never requested again: samples use the stored file, whatever the server returns by now. A failed
download is retried by the next run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cmrm.datasets.fields import RowError
from cmrm.datasets.held_media import LostMedium, is_image_name, keep_file
from cmrm.datasets.media_columns import MediaColumns, put_cells
from cmrm.datasets.rows import Record
from cmrm.errors import UserError
from cmrm.prompts.media import MediumKind
from cmrm.prompts.sample import Rejected
from cmrm.untrusted.redaction import holds_credentials
from storage.backends.http_files import Reach, is_loopback
from storage.backends.http_limits import Limits
from storage.backends.remote_files import (
    MOST_IMAGE_BYTES,
    NoAnswerError,
    RemoteFileError,
    fetch_bytes,
    find_host,
    is_offline,
    is_remote,
    join_url,
    show_url,
)
from storage.errors import explained
from storage.records.hashing import digest_bytes

# An interrupted run waits for the downloads in flight.
LIMITS = Limits(longest=120.0)
AT_ONCE = 8
# Rows prefetched beyond one whose image is still downloading.
MOST_AHEAD = 64
# After this many consecutive unanswered requests, a host is not requested any more in this pass.
MOST_SILENT = 5
# Subfolder of the image folder: the cache record of each URL.
RECORDS = "fetched"

# Whether an image that is not stored is requested from its server, or from nobody, since the plan already did.
Asking = Literal["servers", "nobody"]
# What is to stand in columns of a row, files in flight among it.
_Cells = Mapping[str, Sequence[object]]


@dataclass(frozen=True, kw_only=True)
class RemoteImages:
    """Where a data set's remote images are stored, and which servers may be requested.

    `base` is the URL of a folder in which rows name their images. `origin` is the URL of the rows themselves: rows from
    the internet may name internet addresses, and hosts that the spec names. A failed download is retried once per
    `run`. With `asking` "nobody", an image without a cache record is an error.
    """

    folder: Path
    base: str | None = None
    origin: str | None = None
    run: str = ""
    asking: Asking = "servers"

    def reach(self, url: str) -> Reach:
        """Which addresses may be requested for a row's image."""
        named = {find_host(one) for one in (self.base, self.origin) if one is not None}
        from_internet = self.origin is not None and _is_of_others(self.origin)
        return "public" if from_internet and find_host(url) not in named else "any"

    def fetch(self, records: Iterable[Record | Rejected], media: MediaColumns) -> Iterator[Record | Rejected]:
        """Yield rows in order, with each URL in their media replaced by the stored file's name or a `LostMedium`.

        Raises `UserError` if the image folder cannot be written, and `StoreError` for a missing package.
        """
        fetching = _Fetching(self)
        waiting: deque[tuple[Record | Rejected, _Cells]] = deque()
        try:
            for record in records:
                waiting.append((record, self._begin(record, media, fetching)))
                while waiting and (not waiting[0][1] or len(waiting) > MOST_AHEAD):
                    yield _conclude(*waiting.popleft())
            while waiting:
                yield _conclude(*waiting.popleft())
        finally:
            fetching.stop()

    def _begin(self, record: Record | Rejected, media: MediaColumns, fetching: _Fetching) -> _Cells:
        """Begin to fetch a row's media; return the columns of which something changes, with what is to stand there."""
        if isinstance(record, Rejected):
            return {}
        found = {
            column.name: [(cell, self._begin_cell(cell, column.kind, fetching)) for cell in cells]
            for column, cells in media.choose(record.fields)
        }
        return {
            name: [cell if begun is None else begun for cell, begun in cells]
            for name, cells in found.items()
            if any(begun is not None for _, begun in cells)
        }

    def _begin_cell(
        self, cell: object, kind: MediumKind, fetching: _Fetching
    ) -> Future[str | LostMedium] | LostMedium | None:
        if (text := _find_text(cell)) is None:
            return None
        if is_remote(text):
            url = text
        elif self.base is not None and is_image_name(text):
            try:
                url = join_url(self.base, text)
            except RemoteFileError as error:
                return LostMedium(reason=str(error))
        else:
            return None
        if holds_credentials(url):
            return LostMedium(
                reason=f"the URL of its {kind} holds a user, a password or a signature, which is not shown here; give "
                "one without"
            )
        return fetching.begin(url, kind)


class _Fetching:
    """One pass over a data set: its thread pool, downloads in flight, and unresponsive hosts."""

    def __init__(self, images: RemoteImages) -> None:
        self._images = images
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._in_flight: dict[str, Future[str | LostMedium]] = {}
        self._silent: Counter[str] = Counter()

    def begin(self, url: str, kind: MediumKind) -> Future[str | LostMedium]:
        """Start to fetch a file, unless it is in flight or done."""
        with self._lock:
            if (future := self._in_flight.get(url)) is not None:
                return future
            # Most data sets name no URL and need no threads.
            if self._pool is None:
                self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch")
            future = self._in_flight[url] = self._pool.submit(self._find, url, kind)
        return future

    def stop(self) -> None:
        """Cancel queued downloads, and wait for those in flight."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _find(self, url: str, kind: MediumKind) -> str | LostMedium:
        try:
            return self._obtain(url, kind)
        finally:
            with self._lock:
                self._in_flight.pop(url, None)

    def _obtain(self, url: str, kind: MediumKind) -> str | LostMedium:
        images = self._images
        known = _read_record(images.folder, url, run=images.run if images.asking == "servers" else None)
        if known is not None:
            return known
        if images.asking == "nobody":
            raise UserError(
                f"the {kind} {show_url(url)} was fetched by the plan and is not in {images.folder} any more; run "
                "again, and give workers on other machines a shared folder as `images`."
            )
        found = self._ask(url, kind)
        _write_record(images.folder, url, found, run=images.run)
        return found

    def _ask(self, url: str, kind: MediumKind) -> str | LostMedium:
        host = find_host(url)
        if is_offline() and _is_of_others(url):
            return LostMedium(reason=f"its {kind} {show_url(url)} is not kept yet, and HF_HUB_OFFLINE is set")
        if self._silent[host] >= MOST_SILENT:
            return LostMedium(
                reason=f"its {kind} was not asked for: {host} did not answer {MOST_SILENT} times in a row"
            )
        try:
            content = fetch_bytes(url, most=MOST_IMAGE_BYTES, reach=self._images.reach(url), limits=LIMITS)
        except NoAnswerError as error:
            with self._lock:
                self._silent[host] += 1
            return LostMedium(reason=f"its {kind} cannot be fetched: {error}")
        except RemoteFileError as error:
            return LostMedium(reason=f"its {kind} cannot be fetched: {error}")
        with self._lock:
            self._silent[host] = 0
        try:
            return keep_file(content, self._images.folder, kind)
        except RowError as error:
            return LostMedium(reason=f"{error} ({show_url(url)})")


def _conclude(record: Record | Rejected, cells: _Cells) -> Record | Rejected:
    if isinstance(record, Rejected) or not cells:
        return record
    fetched = {
        name: [one.result() if isinstance(one, Future) else one for one in row] for name, row in cells.items()
    }
    return dataclasses.replace(record, fields=put_cells(record.fields, fetched))


def _find_text(cell: Any) -> str | None:
    """The text of a row's cell, also inside Hugging Face's {bytes, path} without bytes."""
    if isinstance(cell, dict) and cell.get("bytes") is None:
        cell = cell.get("path")
    return cell.strip() if isinstance(cell, str) and cell.strip() else None


def _is_of_others(url: str) -> bool:
    """Whether a URL points to the web, and not to this machine or a bucket."""
    return url[:4].lower() == "http" and not is_loopback(url)


def _place_record(folder: Path, url: str) -> Path:
    return folder / RECORDS / f"{digest_bytes(url.encode('utf-8', 'replace'))[:32]}.json"


def _read_record(folder: Path, url: str, *, run: str | None) -> str | LostMedium | None:
    """Read a URL's cache record: the name of a complete stored file, or why the download failed.

    Failures count only if they are of this `run`; None for any run.
    """
    try:
        record = json.loads(_place_record(folder, url).read_bytes())
        if (reason := record.get("lost")) is not None:
            return LostMedium(reason=str(reason)) if run is None or run == record.get("run") else None
        name = str(record["name"])
        return name if (folder / name).stat().st_size == record["size"] else None
    except (OSError, ValueError, KeyError, AttributeError):
        return None


def _write_record(folder: Path, url: str, found: str | LostMedium, *, run: str) -> None:
    place = _place_record(folder, url)
    with explained("write", str(place)):
        content: dict[str, Any] = (
            {"lost": found.reason, "run": run}
            if isinstance(found, LostMedium)
            else {"name": found, "size": (folder / found).stat().st_size}
        )
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, incoming = tempfile.mkstemp(dir=place.parent, prefix=".incoming-")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(json.dumps(content).encode())
            Path(incoming).replace(place)
        finally:
            Path(incoming).unlink(missing_ok=True)
