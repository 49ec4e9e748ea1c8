"""Streaming JSON parser for one document: read the entries of a list or an object one at a time.

`docs/decisions/data.md` says why this is not a library.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from cmrm.datasets.compressed import open_data
from cmrm.datasets.fields import cut, name_type
from cmrm.datasets.rows import Record, find_repeated_key, reject
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected

CHUNK_CHARACTERS = 2**20
# Far above any sample; bounds the buffer when a damaged file never closes an entry.
MAX_ENTRY_CHARACTERS = 16 * 2**20

# The field that holds an entry's key in the document's object; no published file has a field of this name.
KEY = "<key>"

_SPACE = re.compile(r"[ \t\r\n]*")

Container = Literal["list", "object"]
Member = Literal["list of objects", "list", "object", "value"]
# How many keys an error message lists.
MAX_NAMED = 20
# Objects nested so deep are skipped member by member, and deeper ones as one value.
MAX_SKIP_DEPTH = 3


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A value in a document, its key if it is a member of an object, and the line on which it begins.

    `fault` says why the entry is rejected while parsing continues.
    """

    key: str | None
    value: Any
    raw: str
    line: int
    fault: str | None = None

    @property
    def place(self) -> str:
        """The entry's key, for messages; a list's reader gives the number instead."""
        return "" if self.key is None else f"entry {cut(self.key)!r}"


def read_entries(
    path: Path, *, dataset: str, containers: tuple[Container, ...], inside: Sequence[str] = ()
) -> Iterator[Record | Rejected]:
    """Stream the objects of a JSON list, or of a JSON object, whose keys go into the field `KEY`.

    `inside` is the path of keys to the list or object. An entry that is not an object, or has a duplicate key, is
    rejected. A damaged or truncated document raises `UserError` with the line, since nothing after it can be trusted;
    so does a missing file, one in another encoding than UTF-8, a container that is none of `containers`, or damage in
    what follows the list or object.
    """
    with open_document(path) as document:
        document.enter(inside)
        for number, entry in enumerate(document.read(containers), start=1):
            place = entry.place or f"entry {number}"
            if entry.fault is None and isinstance(entry.value, dict):
                fields = entry.value if entry.key is None else {**entry.value, KEY: entry.key}
                yield Record(line=entry.line, fields=fields, raw=entry.raw, place=place)
            else:
                fault = entry.fault or f"is {name_type(entry.value)} where a JSON object was expected"
                yield reject(dataset=dataset, line=entry.line, reason=f"{place} {fault}", raw=entry.raw)


@contextmanager
def open_document(path: Path) -> Iterator[Document]:
    """Open a JSON document for streaming; raise `UserError` for an unreadable file or a missing compression suffix."""
    with open_data(path) as file:
        # Invalid UTF-8 becomes surrogates, so that one entry is rejected and not the file.
        yield Document(io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape"), path)


class Document:
    """Streaming parser state: the buffered part of a document, the read position in it, and its line number."""

    def __init__(self, file: IO[str], path: Path) -> None:
        self.file = file
        self.path = path
        self.buffer = ""
        self.position = 0
        self.line = 1
        self.inside: list[str] = []
        self.repeated: str | None = None
        self.decode = json.JSONDecoder(object_pairs_hook=self._make_object).raw_decode

    def enter(self, keys: Sequence[str]) -> None:
        """Seek to the value under a path of keys from the outermost object.

        Raises `UserError` if there is none.
        """
        for depth, key in enumerate(keys):
            where = ".".join(keys[: depth + 1])
            if self._peek() != "{":
                raise UserError(f"{self.path} has no object that could hold {cut(where)!r}; correct `rows`.")
            self._advance(1)
            self._seek(key, where)
            self.inside.append(key)

    def list_members(self) -> Iterator[tuple[str, Member]]:
        """List the keys of the outermost object with the type of each value."""
        self._open(("object",))
        while self._peek() not in ("}", ""):
            key = self._take_key()
            opening = self._peek()
            if opening == "[":
                self._advance(1)
                yield key, "list of objects" if self._peek() == "{" else "list"
                self._skip_elements()
            else:
                yield key, "object" if opening == "{" else "value"
                self._skip_value()
            self._skip_comma("}")

    def peek(self) -> str:
        """Return the next non-space character without consuming it, or "" at the end."""
        return self._peek()

    def read(self, containers: tuple[Container, ...]) -> Iterator[Entry]:
        """Stream the entries of the next list or object; raise `UserError` if it is damaged."""
        container = self._open(containers)
        closing = "]" if container == "list" else "}"
        if self._peek() != closing:
            yield self._read_entry(container)
            while self._peek() == ",":
                self._advance(1)
                yield self._read_entry(container)
        if self._peek() != closing:
            raise self._damaged(f"',' or {closing!r} was expected")
        self._advance(1)
        for key in reversed(self.inside):
            self._leave_object(key)
        if self._peek():
            raise self._damaged("something follows the document's end")

    def _open(self, containers: tuple[Container, ...]) -> Container:
        opening = self._peek()
        found = {"[": "list", "{": "object"}.get(opening)
        for container in containers:
            if container == found:
                self._advance(1)
                return container
        expected = " or ".join(f"one JSON {container}" for container in containers)
        what = "is empty" if not opening else f"is not {expected}"
        raise UserError(f"{self.path} {what}; give the file as it was published.")

    def _read_entry(self, container: Container) -> Entry:
        self._peek()
        line = self.line
        key = None if container == "list" else self._take_key()
        value, raw = self._take_value()
        fault = None if self.repeated is None else f"has the key {cut(self.repeated)!r} twice"
        return Entry(key=key, value=value, raw=raw, line=line, fault=fault)

    def _take_key(self) -> str:
        key, _ = self._take_value()
        if not isinstance(key, str):
            raise self._damaged("a key in quotation marks was expected")
        if self._peek() != ":":
            raise self._damaged("':' was expected")
        self._advance(1)
        self._peek()
        return key

    def _seek(self, key: str, where: str) -> None:
        known: list[str] = []
        while self._peek() not in ("}", ""):
            name = self._take_key()
            if name == key:
                return
            known.append(cut(name, 40))
            self._skip_value()
            self._skip_comma("}")
        listed = ", ".join(known[:MAX_NAMED]) or "nothing"
        raise UserError(f"{self.path} has nothing under {cut(where)!r}, which `rows` names; it has {listed}.")

    def _leave_object(self, key: str) -> None:
        """Skip the rest of the object in which `key` was entered; raise `UserError` if it is damaged or repeats it."""
        while self._peek() == ",":
            self._advance(1)
            if self._take_key() == key:
                raise UserError(
                    f"{self.path} has the key {cut(key)!r} twice, again on line {self.line}, and rows under each; "
                    "rename one."
                )
            self._skip_value()
        if self._peek() != "}":
            raise self._damaged("',' or '}' was expected after the rows")
        self._advance(1)

    def _skip_value(self, *, depth: int = MAX_SKIP_DEPTH) -> None:
        """Skip a value; lists and objects in parts, since they may be larger than memory."""
        opening = self._peek()
        if opening == "[":
            self._advance(1)
            self._skip_elements()
        elif opening == "{" and depth > 0:
            self._advance(1)
            while self._peek() not in ("}", ""):
                self._take_key()
                self._skip_value(depth=depth - 1)
                self._skip_comma("}")
            self._advance(1)
        else:
            self._take_value()

    def _skip_elements(self) -> None:
        """Skip the rest of a list element by element, since it may be larger than memory."""
        while self._peek() not in ("]", ""):
            self._take_value()
            self._skip_comma("]")
        self._advance(1)

    def _skip_comma(self, closing: str) -> None:
        if self._peek() == ",":
            self._advance(1)
        elif self._peek() != closing:
            raise self._damaged(f"',' or {closing!r} was expected")

    def _make_object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        self.repeated = self.repeated or find_repeated_key(pairs)
        return dict(pairs)

    def _take_value(self) -> tuple[Any, str]:
        while True:
            self._peek()
            self.repeated = None
            try:
                value, end = self.decode(self.buffer, self.position)
            except (ValueError, RecursionError) as error:
                reason = getattr(error, "msg", None) or str(error)
                if len(self.buffer) - self.position > MAX_ENTRY_CHARACTERS:
                    reason += f", and no end within {MAX_ENTRY_CHARACTERS:,} characters, the most that is read of one"
                    raise self._damaged(
                        reason, hint=", or put an image that the entry holds into a file"
                    ) from None
                if not self._read_on():
                    raise self._damaged(reason) from None
            else:
                # A number at the end of the buffer may continue in the next chunk.
                if end < len(self.buffer) or not self._read_on():
                    raw = self.buffer[self.position : end]
                    self._advance(end - self.position)
                    return value, raw

    def _peek(self) -> str:
        """Skip white space; return the next character without consuming it, or "" at the end."""
        while True:
            found = _SPACE.match(self.buffer, self.position)
            assert found is not None  # it matches anything
            self._advance(found.end() - self.position)
            if self.position < len(self.buffer) or not self._read_on():
                return self.buffer[self.position : self.position + 1]

    def _advance(self, count: int) -> None:
        self.line += self.buffer.count("\n", self.position, self.position + count)
        self.position += count

    def _read_on(self) -> bool:
        """Read another chunk and drop what was consumed; return False at the end of the file."""
        chunk = self.file.read(CHUNK_CHARACTERS)
        self.buffer, self.position = self.buffer[self.position :] + chunk, 0
        return bool(chunk)

    def _damaged(self, reason: str, *, hint: str = "") -> UserError:
        return UserError(
            f"{self.path} is damaged or truncated in the entry on line {self.line} ({reason}); download the file "
            f"again{hint}."
        )
