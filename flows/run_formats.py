"""Formats in which `cmrm export` writes a finished run, beside those of models: their options, and who writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Any, Literal

from cmrm.errors import UserError
from cmrm.models.optional_packages import need_package
from cmrm.new_folder import refuse_used
from cmrm.untrusted.printable import show

Say = Callable[[str], None]
# The ending of a file of Δ, which is no run.
SHIFT_ENDING = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of the command that formats of runs alone have; each is None unless it is given.

    Parameters
    ----------
    images
        Of a run: attach its images, or none of them.
    states
        Of a run as a data set: write its hidden states too.
    include_harmful
        Of a run as a data set: write the text and images of harmful samples, and the answers to them, which are left
        out otherwise.
    """

    images: Literal["attach", "none"] | None = None
    states: bool | None = None
    include_harmful: bool | None = None


@dataclass(frozen=True, kw_only=True)
class RunExport:
    """What the user asks for: a run (id or `latest`) of a store (folder or URL), in a new or an empty folder.

    `options` holds those that are given; `push` names a repository on the Hugging Face hub.
    """

    run: str
    store: str
    output: Path
    options: RunOptions
    push: str | None = None
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class RunFormat:
    """A format: its line in the help of `--to`, the function that writes it, and the options that it takes.

    `target` is the import path of a function of a `RunExport` and of what is told what goes on. `options` are names of
    fields of `RunOptions`, and `push`, with which goes `dry_run`. `package` is what has to be installed, by the extra
    `extra`.
    """

    summary: str
    target: str
    options: frozenset[str] = frozenset()
    package: str | None = None
    extra: str = ""

    def load(self) -> Callable[[RunExport, Say], None]:
        """Import the function that writes the format."""
        found: Callable[[RunExport, Say], None] = resolve_name(self.target)
        return found


RUN_FORMATS: Mapping[str, RunFormat] = MappingProxyType(
    {
        "dataset": RunFormat(
            summary="a data set of the Hugging Face hub: Parquet files with images, and a card",
            target="flows.hub.export:export_dataset",
            options=frozenset({"images", "states", "include_harmful", "push"}),
        ),
        "inspect": RunFormat(
            summary="Inspect logs, one for each arm and data set",
            target="flows.inspect.logs:write_logs",
            options=frozenset({"images"}),
            package="inspect_ai",
            extra="inspect",
        ),
        "paper": RunFormat(
            summary="figures of one and two columns as SVG and PDF, LaTeX tables, and a .bib of what was used",
            target="flows.paper.export:export_paper",
        ),
    }
)


def export_run(asked: RunExport, *, to: str, others: Mapping[str, object], say: Say) -> None:
    """Write a finished run in a format; `others` are the options that formats of models alone have, None if not given.

    Raises `UserError` or `StoreError` for what the user can fix.
    """
    chosen = RUN_FORMATS[to]
    for name, value in others.items():
        if value is not None:
            raise UserError(
                f"{name_option(name)} is for exports of a model; --to {to} exports a run: leave it out."
            )
    given: dict[str, Any] = {**asdict(asked.options), "push": asked.push}
    for name, value in given.items():
        if value is not None and name not in chosen.options:
            raise UserError(f"{name_option(name)}: --to {to} has no such option; {_list_options(chosen)}.")
    if asked.run.endswith(SHIFT_ENDING):
        raise UserError(
            f"--to {to} exports a finished run and {show(asked.run)} is a file of Δ; give the run's id, or latest."
        )
    if chosen.package is not None:
        need_package(chosen.package, extra=chosen.extra, field=f"--to {to}")
    refuse_used(asked.output)
    chosen.load()(asked, say)


def refuse_run_options(options: RunOptions, *, to: str) -> None:
    """Raise `UserError` for an option that formats of runs alone have, with a format of models."""
    for name, value in asdict(options).items():
        if value is not None:
            where = ", ".join(kind for kind, one in RUN_FORMATS.items() if name in one.options)
            raise UserError(
                f"{name_option(name)} is for exports of a run (--to {where}); --to {show(to)} exports a model: "
                "leave it out."
            )


def name_option(name: str) -> str:
    """Name an option as the command line has it."""
    return f"--{name.replace('_', '-')}"


def _list_options(chosen: RunFormat) -> str:
    names = ", ".join(name_option(name) for name in sorted(chosen.options))
    return f"it has {names}" if names else "it has none of its own"
