"""Runs that begin with all imports done, for tests that kill them: forked from one process that made the imports."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.preloaded import RUN, Forked, Preloaded

# What a run on the random LLaVA comes to import as well.
LLAVA = (
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llava.modeling_llava",
    "transformers.models.llava.processing_llava",
)


class Forker:
    """A process that has imported all that a run needs, and forks one for each that is started."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._parent = Preloaded(*RUN, *LLAVA, environment=environment)
        self._parent.__enter__()

    def start(
        self, code: str, arguments: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
    ) -> Forked:
        """Run `code` as `python -c` does, in a process of its own; what it says goes into `log`."""
        with log.open("wb") as said, Path(os.devnull).open("rb") as nothing:
            return self._parent.start(
                code, *arguments, stdin=nothing, stdout=said, stderr=said, env=environment
            )

    def stop(self) -> None:
        """End the process; those that were forked from it go on."""
        self._parent.__exit__(None, None, None)
