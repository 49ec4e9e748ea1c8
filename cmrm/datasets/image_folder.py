"""Find image files by the names that data sets give: other suffixes, prefixes, case, or base name."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from cmrm.datasets.coco import SPLIT_PREFIXES
from cmrm.datasets.fields import RowError, cut, is_storable
from cmrm.datasets.rows import reject
from cmrm.errors import UserError
from cmrm.prompts.media import Medium
from cmrm.prompts.media_files import is_name, locate_file
from cmrm.prompts.sample import Rejected, Sample

# Published files name images `images/1.png` or `imgs/1.png`; users give that folder or its parent.
IMAGES_FOLDERS = ("images/", "imgs/")
SUFFIXES = ("png", "jpg", "jpeg", "webp")
_SPELLINGS = (("Activitiy", "Activity"), ("Activity", "Activitiy"))

# Hints are given for the first missing images alone. Fuzzy matching takes up to 0.1 ms a compared name, so these are
# bounded, for one hint and for all of them.
MAX_HINTS, MAX_COMPARED, MAX_COMPARED_IN_ALL = 20, 10_000, 20_000


class ImageFolder:
    """An image folder whose subfolders are listed once each, and only if a name is not found as given.

    A file whose path is not UTF-8 has no name that a store could hold, and is found by no name.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._root = str(root)
        self._real: str | None = None
        # Of each folder that images were found in, its real path; None for one outside the root.
        self._folders: dict[str, str | None] = {}
        # Of each folder, the names in it by their case-folded form.
        self._listings: dict[str, dict[str, list[str]]] = {}
        self._variants: dict[str, str | None] = {}
        self._below: dict[str, list[str]] | None = None
        self._unstorable: dict[str, list[str]] = {}
        self._hints = self._compared = 0

    def find(self, name: str) -> tuple[str, Path] | None:
        """Find an image file by its name or a known variant; return its actual name and path.

        A name with backslashes, or in another case, matches too if that leaves exactly one file.
        """
        if not is_name(name):
            return None
        if (found := self._locate(name)) is not None:
            return found
        if name not in self._variants:
            self._variants[name] = next(self._list_variants(name), None)
        variant = self._variants[name]
        return None if variant is None else self._locate(variant)

    def find_by_basename(self, name: str) -> list[str]:
        """Find the files in the folder tree with the base name of `name`."""
        return self._list_below().get(_basename(name), [])

    def find_unstorable(self, name: str) -> list[str]:
        """Find the files with the base name of `name` in subfolders whose names are not UTF-8."""
        self._list_below()
        return self._unstorable.get(_basename(name), [])

    def explain(self, name: str, *, dataset: str) -> str:
        """Return a hint for an image that was not found: a file with that base name, or the closest match."""
        if self._hints >= MAX_HINTS or not is_name(name):
            return ""
        self._hints += 1
        found = self.find_by_basename(name)
        if name in found:
            return ""  # it is there, and cannot be used
        if found:
            return (
                f"; {cut(found[0])!r} is there: `match: basename` in datasets.{dataset} finds images by the last part "
                "of their names"
            )
        if unstorable := self.find_unstorable(name):
            return f"; {explain_unstorable(unstorable)}"
        known = list(self._list_below())[: min(MAX_COMPARED, MAX_COMPARED_IN_ALL - self._compared)]
        self._compared += len(known)
        near = difflib.get_close_matches(_basename(name), known, n=1, cutoff=0.75)
        return f"; the nearest name is {cut(self._list_below()[near[0]][0])!r}" if near else ""

    def _list_variants(self, name: str) -> Iterator[str]:
        """List the files that a name may mean, the likeliest first."""
        for candidate in _names(name):
            # A listing knows that a file is missing without resolving each folder of its path again.
            if self._lists(candidate) and self._locate(candidate) is not None:
                yield candidate
        for candidate in _names(name.replace("\\", "/")):
            spelled = self._find_spelling(candidate)
            if spelled is not None and self._locate(spelled) is not None:
                yield spelled

    def _locate(self, name: str) -> tuple[str, Path] | None:
        if (path := self._locate_plain(name)) is not None:
            return name, path
        with suppress(UserError):
            return name, locate_file(self.root, name)
        return None

    def _locate_plain(self, name: str) -> Path | None:
        """Find a regular file that is no link: what `locate_file` returns, with each folder resolved once.

        None for anything else, which `locate_file` has to look at.
        """
        folder, _, file = name.rpartition("/")
        if file in ("", ".", "..") or not is_name(name):
            return None
        with suppress(OSError, ValueError):
            # Texts and not paths, which would take as long as all the rest.
            if not stat.S_ISREG(os.lstat(os.path.join(self._root, name)).st_mode):  # noqa: PTH118
                return None
            inside = self._resolve(folder or ("/" if name.startswith("/") else ""))
            return None if inside is None else Path(inside, file)
        return None

    def _resolve(self, folder: str) -> str | None:
        if folder not in self._folders:
            if self._real is None:
                self._real = os.path.realpath(self.root)
            real = os.path.realpath(self.root / folder)
            self._folders[folder] = real if Path(real).is_relative_to(self._real) else None
        return self._folders[folder]

    def _find_spelling(self, name: str) -> str | None:
        """Return the one path that equals `name` case-insensitively, or None."""
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts:
            return None
        found = ""
        for part in parts:
            spellings = [one for one in self._list(found).get(part.casefold(), []) if is_storable(one)]
            exact = part if part in spellings else None
            if exact is None and len(spellings) != 1:
                return None
            found = os.path.join(found, exact or spellings[0])  # noqa: PTH118 - a name, not a path of this machine
        return found

    def _lists(self, name: str) -> bool:
        """Whether the listing of a name's folder has its file."""
        folder, _, file = name.rpartition("/")
        if name.startswith("/"):
            folder = folder or "/"
        return file in self._list(folder).get(file.casefold(), [])

    def _list(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._listings:
            listing: dict[str, list[str]] = {}
            with suppress(OSError, ValueError):
                for name in sorted(self._read_folder(folder)):
                    listing.setdefault(name.casefold(), []).append(name)
            self._listings[folder] = listing
        return self._listings[folder]

    def _read_folder(self, folder: str) -> list[str]:
        """List the names in a folder; nothing of a folder outside the root, links resolved."""
        # Scanned by its name and resolved afterwards: most folders that variants name do not exist.
        with os.scandir(self.root / folder) as entries:
            if self._resolve(folder) is None:
                return []
            return [entry.name for entry in entries]

    def _list_below(self) -> dict[str, list[str]]:
        if self._below is None:
            self._below = {}
            for parent, folders, names in os.walk(self.root):
                folders.sort()
                below = Path(parent).relative_to(self.root)
                for name in sorted(names):
                    path = (below / name).as_posix()
                    if is_storable(path):
                        self._below.setdefault(name, []).append(path)
                    else:
                        self._unstorable.setdefault(name, []).append(path)
        return self._below


def match_basenames(
    rows: Iterable[Sample | Rejected], folder: ImageFolder | None, *, dataset: str
) -> Iterator[Sample | Rejected]:
    """Look up images that are not found under their path by base name (`match: basename`).

    A sample with several candidates is rejected, and so is one whose only candidates have paths that are not UTF-8.
    Raises `UserError` if there is no image folder.
    """
    if folder is None:
        raise UserError(f"data set {dataset!r}: match finds images in a folder; give it as `images`.")
    for row in rows:
        if isinstance(row, Rejected):
            yield row
            continue
        try:
            yield row.rename([_match_basename(one, folder) for one in row.shown]) if row.shown else row
        except RowError as error:
            yield reject(dataset=dataset, line=row.line, identity=row.id, reason=str(error), raw=row.question)


def _match_basename(medium: Medium, folder: ImageFolder) -> str:
    """Find the one file with the base name of a medium that is not found under its path; else its own name."""
    name = medium.name
    if folder.find(name) is not None:
        return name
    found = folder.find_by_basename(name)
    if not found and (spelled := folder.find(_basename(name))) is not None:
        found = [spelled[0]]
    if len(found) > 1:
        raise RowError(
            f"{len(found)} images are named {cut(_basename(name))!r}: {', '.join(map(cut, found[:3]))}"
        )
    if not found and (unstorable := folder.find_unstorable(name)):
        raise RowError(f"image {cut(name)!r} is not found; {explain_unstorable(unstorable)}")
    return found[0] if found else name


def explain_unstorable(paths: Sequence[str]) -> str:
    """Say which files were left out because their paths are not UTF-8, and the fix."""
    more = f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
    return f"{cut(paths[0])!r} is there{more}, and its path is not UTF-8, which no store can hold: rename its folder"


def _basename(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def _names(name: str) -> Iterator[str]:
    """Yield the variants of an image's name, the given one first.

    COCO 2014 prefixes the split; MM-SafetyBench misspells a scenario, which some copies correct; the folders of
    MOSSBench and VLSBench are given with or without their last part, and their images exist as PNG and as WebP.
    """
    folder, slash, file = name.rpartition("/")
    yield name
    for prefix in SPLIT_PREFIXES:
        yield f"{folder}{slash}{prefix}{file}"
    for one, other in _SPELLINGS:
        if one in name:
            yield name.replace(one, other)
    bare = _leave_out_folder(name)
    if bare != name:
        yield bare
    stem, dot, suffix = name.rpartition(".")
    if dot and suffix.lower() in SUFFIXES:
        for other in SUFFIXES:
            yield f"{stem}.{other}"
            if bare != name:
                yield f"{_leave_out_folder(stem)}.{other}"


def _leave_out_folder(name: str) -> str:
    for folder in IMAGES_FOLDERS:
        if name.startswith(folder):
            return name.removeprefix(folder)
    return name
