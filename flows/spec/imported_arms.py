"""The section `arms` of a spec: answers that other systems gave, which join the run as arms of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from cmrm.errors import UserError
from cmrm.models.reasoning import check_marks
from cmrm.prompts.conditions import Condition
from cmrm.prompts.reasoning import ReasoningMarks
from cmrm.untrusted.printable import show, show_value
from flows.spec.errors import explain_mistakes
from flows.spec.home import expand_home
from flows.spec.section import Name, Section
from flows.spec.sections import FileOrUrl
from storage.backends.remote_files import is_remote
from tasks.imported.files import AnswersFile
from tasks.imported.rows import FIELDS


class ImportedArmSpec(Section):
    """One arm that another system answered: the file of its answers, and how its rows are read.

    `condition` says how the questions were asked where rows do not, `dataset` of which data set they are. `columns`
    maps fields of an answer to the file's own names, `epoch` chooses one of an Inspect log, and `reasoning` names the
    two marks around traces.
    """

    answers: FileOrUrl
    condition: Condition = "image"
    dataset: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    delimiter: str | None = None
    epoch: int | None = Field(default=None, ge=1)
    reasoning: tuple[str, str] | None = None

    @field_validator("columns")
    @classmethod
    def _know_the_fields(cls, columns: dict[str, str]) -> dict[str, str]:
        if unknown := [name for name in columns if name not in FIELDS]:
            raise ValueError(f"{show_value(unknown[0])} is none of {', '.join(FIELDS)}; write `id: NAME`")
        return columns

    @field_validator("delimiter")
    @classmethod
    def _have_one_character(cls, delimiter: str | None) -> str | None:
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
            raise ValueError('give one character, such as ";" or "\\t"')
        return delimiter

    @field_validator("reasoning")
    @classmethod
    def _tell_the_marks_apart(cls, marks: tuple[str, str] | None) -> tuple[str, str] | None:
        if marks is None:
            return None
        opening, closing = (mark.strip() for mark in marks)
        check_marks((opening, closing))
        return opening, closing

    def make(self, name: str, files: Mapping[str, Path]) -> AnswersFile:
        """Make the file as the import stage reads it; `files` are local copies of remote ones by URL."""
        remote = isinstance(self.answers, str)
        opening, closing = self.reasoning or ("", "")
        return AnswersFile(
            name=name,
            path=files[self.answers] if isinstance(self.answers, str) else self.answers,
            # Of a URL neither the host nor a query, which may be a secret.
            shown=show(
                str(self.answers).partition("?")[0].rpartition("/")[2] if remote else Path(self.answers).name
            ),
            condition=self.condition,
            dataset=self.dataset,
            columns=self.columns,
            delimiter=self.delimiter,
            epoch=self.epoch,
            reasoning=ReasoningMarks(opening=opening, closing=closing, declared="spec") if opening else None,
        )

    def start_at(self, folder: Path, *, field: str) -> ImportedArmSpec:
        """Make the file's path absolute."""
        if is_remote(str(self.answers)):
            return self
        return self.model_copy(update={"answers": folder / expand_home(str(self.answers), field=field)})


Arms = Mapping[Name, ImportedArmSpec]
NO_ARMS: Arms = MappingProxyType({})
_ARMS: TypeAdapter[dict[Name, ImportedArmSpec]] = TypeAdapter(dict[Name, ImportedArmSpec])


def read_arms(content: Any, *, folder: Path, where: str) -> Arms:
    """Validate arms as a spec has them, with paths that start at `folder`; raises `UserError` with a line per error."""
    try:
        found = _ARMS.validate_python(content)
    except ValidationError as error:
        raise UserError(
            "\n".join(f"{where}: {line}" for line in explain_mistakes(error, dict[Name, ImportedArmSpec]))
        ) from None
    return {name: one.start_at(folder, field=f"{where}: {show(name)}.answers") for name, one in found.items()}
