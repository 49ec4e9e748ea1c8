"""The interface of every export format: what it refuses, what it writes, and how that is proved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cmrm.errors import UserError

if TYPE_CHECKING:
    from cmrm.export.reference import Reference
    from cmrm.export.request import ExportRequest
    from cmrm.steering.settings import Scope


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a format has written: a line for each thing an operator should know, and how to serve it, in Markdown.

    `library` and `tags` go into the model card; a format whose folder transformers loads names `transformers`.
    """

    notes: tuple[str, ...] = ()
    serving: str
    library: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExportFormat(ABC):
    """Base class of export formats: frozen keyword-only dataclasses whose fields are options.

    `acts_at` are the tokens at which whoever serves the export steers; the canary's answers are made so. `dtype` is the
    only one that it is written in, None for any. Without `takes_images` its canary asks in text alone.
    """

    kind: ClassVar[str]
    acts_at: ClassVar[Scope]
    dtype: ClassVar[str | None] = None
    takes_images: ClassVar[bool] = True

    def check(self, request: ExportRequest) -> None:  # noqa: B027 - a format may take every model
        """Raise `UserError` with the reason, and with another format, for what it can't hold; reads configs only."""

    @abstractmethod
    def write(self, request: ExportRequest, folder: Path) -> Written:
        """Write its files into an empty folder that nobody else sees yet."""

    @abstractmethod
    def prove(self, request: ExportRequest, folder: Path, reference: Reference) -> tuple[str, ...]:
        """Read what was written again and hold it against hooks on the source; lines on what was found.

        The source model is no longer in memory. Raises `ExportError` for anything that is not the steered model.
        """


class ExportError(UserError):
    """An export that was written and, read again, is not the steered model; nothing is left under its name."""
