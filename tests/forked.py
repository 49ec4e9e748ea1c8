"""Runs that begin with all imports done, for tests that kill them: forked from one process that made the imports."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.server import embedded
from flows.server.embedded import EmbeddedServer
from tests.preloaded import RUN, Forked, Parent

# What a run on the random LLaVA imports.
RUN_ON_LLAVA = (
    *RUN,
    "transformers.models.clip.image_processing_pil_clip",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llava.modeling_llava",
    "transformers.models.llava.processing_llava",
    "tests.warm",
)
# Prefect reads its settings as it is imported. Code that begins with one of these has those of its own environment, the
# second without the session's server: a run of it starts an embedded one.
OWN_SETTINGS = "import prefect.context\nprefect.context.refresh_global_settings_context()\n"
NO_SERVER = (
    "import os\n"
    "for name in ('PREFECT_API_URL', 'PREFECT_LOGGING_TO_API_ENABLED'):\n"
    "    os.environ.pop(name, None)\n"
    f"{OWN_SETTINGS}"
)
# For runs whose figures nobody looks at: making pictures of them takes as long as the rest of a small run's work.
NO_PICTURES = "import tasks.report.figure\ntasks.report.figure._save = lambda *_, **__: b''\n"
# What Prefect's server imports.
SERVER = ("uvicorn", "prefect.server.api.server")


def start_server(server: EmbeddedServer, parent: Parent) -> None:
    """Start an embedded server by its own code, in a process forked from one that has imported what it needs."""

    def fork(command: Sequence[str], *, start_new_session: bool, **options: Any) -> Forked:
        _python, _c, code, *arguments = command
        assert start_new_session
        return parent.start(f"{NO_SERVER}os.setsid()\n{code}", *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": fork}))
        server.start()


@dataclass(frozen=True, kw_only=True)
class Forker:
    """Starts runs from a process that has imported all that they need; what they say goes into a file.

    Each process runs the code `first` before its own.
    """

    parent: Parent
    first: str = ""

    def start(
        self, code: str, arguments: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
    ) -> Forked:
        """Run `code` as `python -c` does, in a process of its own; what it says goes into `log`."""
        with log.open("wb") as said, Path(os.devnull).open("rb") as nothing:
            return self.parent.start(
                self.first + code, *arguments, stdin=nothing, stdout=said, stderr=said, env=environment
            )

    def write_program(self, place: Path, code: str) -> None:
        """Put a program at `place` that runs `code` in a process of its own."""
        self.parent.write_program(place, self.first + code)
