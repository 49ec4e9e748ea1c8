"""A spec as the parameters of a flow give it: a file's path or the content itself, perhaps on another model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cmrm.errors import UserError
from cmrm.untrusted.printable import show_value
from cmrm.untrusted.regular_file import path_exists
from flows.spec.model_sections import ModelSpec
from flows.spec.spec import Spec, check_spec, read_spec

# The content of a spec, as its model's JSON; its paths are absolute.
Content = Mapping[str, Any]


def read_given(spec: str | Content, *, model: str | None = None) -> Spec:
    """Read the spec file at a path, or validate a spec's content; `model` is as for `replace_model`.

    Raises `UserError` as `read_spec` does.
    """
    read = read_spec(Path(spec)) if isinstance(spec, str) else check_spec(dict(spec), where="spec")
    if model is None:
        return read
    folder = Path(spec).resolve().parent if isinstance(spec, str) else Path.cwd()
    return replace_model(read, model, folder=folder)


def name_given(spec: str | Content) -> str:
    """Name a spec for people: its path, or the title of its content."""
    return spec if isinstance(spec, str) else str(spec.get("title") or "spec")


def replace_model(spec: Spec, given: str, *, folder: Path) -> Spec:
    """Replace the model of a spec by the one at `given`: a folder, a hub id, or ID@REVISION.

    All that the spec says of its model besides id and revision stays. A relative folder starts at `folder`. Raises
    `UserError` if the spec has several models, or if no model can be named so.
    """
    if spec.model is None:
        raise UserError(
            f"model: the spec has {len(spec.models)} models (models:), and {show_value(given)} can replace only one "
            "given as model:."
        )
    id_, at, revision = given.rpartition("@")
    if at and not revision:
        raise UserError(f"model: {show_value(given)} has no revision after its @; give ID or ID@REVISION.")
    named = {"id": id_, "revision": revision} if at and not path_exists(folder / given) else {"id": given}
    content = {**spec.model.model_dump(mode="json", exclude={"revision"}), **named}
    try:
        model = ModelSpec.model_validate(content).start_paths(folder)
    except ValidationError as error:
        raise UserError(f"model: {show_value(given)}: {error.errors()[0]['msg']}") from None
    return spec.model_copy(update={"model": model})
