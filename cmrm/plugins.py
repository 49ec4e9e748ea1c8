"""Kinds of a plug-in: built-in classes by import path, and those of installed packages by entry point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import Any, Generic, TypeVar

from cmrm.errors import UserError

Base = TypeVar("Base")


@dataclass(frozen=True, kw_only=True, eq=False)
class Plugins(Generic[Base]):
    """The kinds of one sort of plug-in, such as judges.

    `word` names one in messages; `group` is the entry points' group, and `base` the class that every kind is a
    frozen dataclass of. `own` holds import paths, imported lazily: one kind may need packages that another does not.
    """

    word: str
    group: str
    base: type[Base]
    own: Mapping[str, str] = field(repr=False)

    def list_kinds(self) -> list[str]:
        """List every kind, built-in and from installed packages."""
        return sorted({*self.own, *entry_points(group=self.group).names})

    def find(self, kind: str) -> type[Base]:
        """Import the class of a kind; raise `UserError` for an unknown kind or an entry point of another class."""
        if kind in self.own:
            return resolve_name(self.own[kind])
        for entry in entry_points(group=self.group, name=kind):
            try:
                found = entry.load()
            except (ImportError, AttributeError) as error:
                raise UserError(
                    f"{self.word} {kind!r} of the entry point {entry.value} cannot be loaded: {error}."
                ) from error
            if not (isinstance(found, type) and issubclass(found, self.base)):
                raise UserError(
                    f"{self.word} {kind!r}: the entry point {entry.value} is no subclass of "
                    f"{self.group}.{self.base.__name__}."
                )
            return found
        raise UserError(
            f"{self.word} {kind!r} is unknown; known {self.word}s: {', '.join(self.list_kinds())}."
        )

    def make(self, kind: str, **options: Any) -> Base:
        """Construct one by its kind; raise `UserError` for an unknown kind, an unknown option or a missing option."""
        found: Any = self.find(kind)
        known = [one.name for one in fields(found) if one.init]
        if unknown := [name for name in options if name not in known]:
            raise UserError(f"{self.word} {kind!r} has no option {unknown[0]!r}; it has {', '.join(known)}.")
        needed = [one.name for one in fields(found) if one.default is one.default_factory is MISSING]
        if missing := [name for name in needed if name not in options]:
            raise UserError(f"{self.word} {kind!r} needs the option {missing[0]!r}.")
        return found(**options)
