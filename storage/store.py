"""The store: manifests and files under cache keys, verified by checksum; a damaged entry counts as missing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.backends.base import Files, open_files
from storage.backends.checksum import find_fault, find_new_fault
from storage.backends.local_cache import find_image_cache, find_local, read_file
from storage.errors import OtherReleaseError, PartsGoneError, StoreError, explained
from storage.records.checksummed_json import seal, unseal
from storage.records.hashing import SCHEMA_VERSION, canonical_json, digest_bytes, digest_file
from storage.records.layout import MARK, check_stage, data_file, heartbeat_file, report_folder
from storage.records.manifest import Manifest, StoredFile, manifest_file, read_manifest
from storage.records.run_record import read_run_record, run_file

log = logging.getLogger("cmrm.storage")

Source = bytes | Path | StoredFile


class Store:
    """A folder or fsspec URL that stores the results of stages, safe for concurrent processes without a lock.

    Every file is written atomically by one rename (or one put), data before the manifest that names it.
    """

    def __init__(self, files: Files) -> None:
        self.files = files

    @classmethod
    def open(cls, url: str | Path) -> Store:
        """Open a store without writing to it; raises StoreError if the URL cannot be a store."""
        return cls(open_files(url))

    @classmethod
    def create(cls, url: str | Path) -> Store:
        """Open a store for writing, and create it if there is none.

        Raises StoreError if the URL cannot be a store, or if a newer release created it.
        """
        store = cls.open(url)
        version = store._marked_version()
        if version is not None and version > SCHEMA_VERSION:
            raise StoreError(
                f"the store {store.url} has schema version {version} and this release writes {SCHEMA_VERSION}: "
                "use the newer release, or another store"
            )
        if version != SCHEMA_VERSION:
            store.files.write(MARK, seal({"schema_version": SCHEMA_VERSION, "created_at": _now()}))
        return store

    @property
    def url(self) -> str:
        """The location of the store: an absolute folder or a URL."""
        return self.files.url

    def write_bytes(self, path: str, data: bytes) -> StoredFile:
        """Write one file atomically and return its size and checksum.

        Raises StoreError if the path leaves the store or the write fails.
        """
        self.files.write(path, data)
        return StoredFile(path=path, bytes=len(data), sha256=digest_bytes(data))

    def read(self, path: str) -> bytes:
        """Read one file; raises StoreError if it is missing."""
        return read_file(self.files, path)

    def local_path(self, path: str) -> Path:
        """Find a file on the local disk, downloading it once if the store is remote.

        Raises StoreError if the store has no such file.
        """
        return find_local(self.files, path)

    def image_cache(self, dataset: str) -> Path:
        """Find the local folder, which may not exist yet, of the images that a data set's rows contain."""
        return find_image_cache(self.files, dataset)

    def commit(
        self,
        stage: str,
        key: str,
        files: Mapping[str, Source],
        *,
        rows: Mapping[str, int] | None = None,
        content: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Commit files under a key: first the data, then the manifest that makes them visible.

        Each path is folder/…/<key>….<suffix>; the file is stored with 12 digits of its own digest before the
        suffix, as the manifest records. Rows of Parquet files are counted if they are not given. A StoredFile is
        already in the store, such as a partial file, and is copied.
        Raises StoreError for unsafe names, wrong row counts and failed writes; then nothing is committed.
        """
        place = manifest_file(stage, key)
        # Fail on content that cannot be serialized before any data is written.
        canonical_json({"content": content or {}, "provenance": provenance or {}})
        counts = dict(rows or {})
        if unknown := counts.keys() - files.keys():
            raise StoreError(
                f"cannot commit {stage}/{key}: rows are given for {sorted(unknown)}, which are no files of it"
            )
        stored = tuple(
            self._keep(path, key, source, counts.get(path)) for path, source in sorted(files.items())
        )
        manifest = Manifest(
            stage=stage,
            key=key,
            schema_version=SCHEMA_VERSION,
            files=stored,
            content=content or {},
            provenance=provenance or {},
            created_at=_now(),
        )
        data = manifest.to_json()
        self.files.write(place, data)
        return Manifest.from_json(data)

    def find(self, stage: str, key: str) -> Manifest | None:
        """Find the manifest of a key if all of its files verify: size and sha256.

        Otherwise return None, and log why. Files that this process has verified are not read again unless they changed.
        Raises StoreError if the store cannot be read.
        """
        manifest = self.look_up(stage, key)
        if manifest is None:
            return None
        faults = (find_new_fault(self.files, file) for file in manifest.files)
        if fault := next(filter(None, faults), None):
            log.warning("%s/%s counts as not there: %s; it is made again", stage, key, fault)
            return None
        return manifest

    def look_up(self, stage: str, key: str) -> Manifest | None:
        """Read the manifest of a key, without verifying the files that it names; None if there is none."""
        try:
            path = manifest_file(stage, key)
            return _read_manifest(path, self._bytes(path))
        except OtherReleaseError as error:
            log.warning("%s/%s counts as not there: %s", stage, key, error)
            return None

    def find_fault(self, file: StoredFile) -> str | None:
        """Describe what is wrong with a recorded file: missing, truncated or changed; None if it verifies."""
        return find_fault(self.files, file)

    def manifests(self, stage: str | None = None) -> Iterator[Manifest]:
        """Iterate over all valid manifests, by stage and key, without opening the files they name."""
        others = 0
        for path, data in self.files.read_many(self.manifest_files(stage)):
            try:
                if manifest := _read_manifest(path, data):
                    yield manifest
            except OtherReleaseError:
                others += 1
        if others:
            log.warning("%s: %d manifests count as not there: another release wrote them", self.url, others)

    def manifest_files(self, stage: str | None = None) -> list[str]:
        """List the paths of manifests, valid or not, by stage and key."""
        folder = "manifests" if stage is None else f"manifests/{check_stage(stage)}"
        return [path for path in self.files.under(folder) if path.endswith(".json")]

    def write_run(self, run_id: str, record: Mapping[str, Any]) -> None:
        """Write a run's record, replacing an earlier one of that id; adds run_id, and created_at (UTC) once."""
        path = run_file(run_id)
        earlier = _read_record(path, self._bytes(path)) or {}
        own = {"created_at": earlier.get("created_at") or _now(), **record}
        self.files.write(path, seal({**own, "run_id": run_id, "schema_version": SCHEMA_VERSION}))

    def forget_run(self, run_id: str) -> list[str]:
        """Remove a run's record and report; return the removed files. Results of stages stay until `gc`.

        Raises StoreError if there is no such record.
        """
        path = run_file(run_id)
        if self.files.size(path) is None:
            self.read_run(run_id)  # raises, listing the latest runs
        removed = [path, *self.files.under(report_folder(run_id))]
        for file in (*removed, heartbeat_file(run_id)):
            self.remove(file)
        return removed

    def remove(self, path: str) -> None:
        """Remove a file, if it exists, and the folders that it leaves empty."""
        self.files.remove(path)
        folder = path.rpartition("/")[0]
        while folder:
            self.files.prune(folder)
            folder = folder.rpartition("/")[0]

    def read_run(self, run_id: str) -> dict[str, Any]:
        """Read a run's record; raises StoreError if there is none, naming the latest ones, or if it is damaged."""
        path = run_file(run_id)
        if self.files.size(path) is None:
            known = ", ".join(str(run["run_id"]) for run in self.runs()[-5:]) or "none yet"
            raise StoreError(f"the store {self.url} has no run {run_id}; its latest runs: {known}")
        try:
            return _of_this_release(read_run_record(path, self.read(path)))
        except StoreError as error:
            raise StoreError(
                f"cannot use {self.url}/{path}: {error}. Remove it and run the spec again"
            ) from error

    def find_run(
        self, name: str, *, prefer: Callable[[Mapping[str, Any]], bool] | None = None
    ) -> dict[str, Any]:
        """Read a run's record by its id, or the newest finished one for `latest`; StoreError if there is none.

        With `prefer`, `latest` is the newest of those it holds for, if there are any.
        """
        if name != "latest":
            return self.read_run(name)
        finished = [run for run in self.runs() if run.get("status") == "finished"]
        if not finished:
            raise StoreError(f"the store {self.url} has no finished run yet: make one with cmrm run")
        preferred = [run for run in finished if prefer is None or prefer(run)]
        # A run that was repeated and fully reused counts as the latest too.
        return max(
            preferred or finished, key=lambda run: str(run.get("confirmed_at") or run.get("created_at"))
        )

    def runs(self) -> list[dict[str, Any]]:
        """List the records of all runs, oldest first, without damaged and older-schema ones, which are logged."""
        records = [_read_record(path, data) for path, data in self.files.read_many(self.run_files())]
        whole = [record for record in records if record is not None]
        return sorted(whole, key=lambda record: (str(record.get("created_at")), str(record.get("run_id"))))

    def run_files(self) -> list[str]:
        """List the paths of run records, valid or not."""
        return [path for path in self.files.under("runs") if path.endswith(".json")]

    def _marked_version(self) -> int | None:
        data = self._bytes(MARK)
        try:
            version = None if data is None else unseal(data).get("schema_version")
        except StoreError as error:
            log.warning("%s/%s is written again: %s", self.url, MARK, error)
            return None
        return version if isinstance(version, int) else None

    def _keep(self, path: str, key: str, source: Source, rows: int | None) -> StoredFile:
        if isinstance(source, StoredFile):
            place = data_file(path, key, source.sha256)
            self._copy(source, place)
            return StoredFile(path=place, bytes=source.bytes, sha256=source.sha256, rows=source.rows)
        if isinstance(source, bytes):
            size, sha256 = len(source), digest_bytes(source)
        else:
            with explained("read", str(source)):
                size, sha256 = source.stat().st_size, digest_file(source)
        place = data_file(path, key, sha256)
        if path.endswith(".parquet"):
            # Imported late, as few commands write tables.
            from storage.tables.parquet import count_rows

            counted = count_rows(source)
            if rows is not None and rows != counted:
                raise StoreError(
                    f"cannot commit {path}: it holds {counted} rows, not the {rows} that were given"
                )
            rows = counted
        self.files.write(place, source)
        return StoredFile(path=place, bytes=size, sha256=sha256, rows=rows)

    def _copy(self, source: StoredFile, place: str) -> None:
        try:
            self.files.copy(source.path, place)
        except FileNotFoundError as error:
            raise PartsGoneError(
                f"{source.path} was removed: another worker has committed this key"
            ) from error

    def _bytes(self, path: str) -> bytes | None:
        ((_, data),) = self.files.read_many([path])
        return data


def _read_manifest(path: str, data: bytes | None) -> Manifest | None:
    try:
        manifest = None if data is None else read_manifest(path, data)
    except StoreError as error:
        log.warning("%s counts as not there: %s", path, error)
        return None
    if manifest is not None:
        _check_version(manifest.schema_version)
    return manifest


def _read_record(path: str, data: bytes | None) -> dict[str, Any] | None:
    try:
        return None if data is None else _of_this_release(read_run_record(path, data))
    except StoreError as error:
        log.warning("%s counts as not there: %s", path, error)
        return None


def _of_this_release(record: dict[str, Any]) -> dict[str, Any]:
    _check_version(record.get("schema_version"))
    return record


def _check_version(version: object) -> None:
    if version != SCHEMA_VERSION:
        raise OtherReleaseError(
            f"it has schema version {version} and this release reads {SCHEMA_VERSION}; "
            "use the release that wrote it, or run again"
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
