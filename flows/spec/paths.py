"""Paths in a spec: resolve them relative to the spec's folder, and reject names longer than a file system allows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cmrm.errors import UserError
from cmrm.untrusted.printable import show
from cmrm.untrusted.regular_file import MissingFileError, is_folder, path_exists
from flows.spec.home import expand_home
from flows.spec.interventions import DefenceSpec
from flows.spec.judge_fields import start_judge_at
from flows.spec.sections import DatasetSpec
from flows.spec.text_files import read_text
from storage.backends.remote_files import is_remote

if TYPE_CHECKING:
    from flows.spec.spec import Spec

# Prefixes of paths to the embedded model's files, before and after pathlib has normalized them.
ORGANISM = ("organism://", "organism:/")
PATH_FIELDS = ("path", "images", "pair_with", "answers", "captions")
# NAME_MAX and PATH_MAX on Linux, in bytes.
MOST_NAME = 255
MOST_PATH = 4095
# Largest file of a template, in bytes.
MOST_TEMPLATE = 2**16


def start_paths_at(folder: Path, spec: Spec, *, where: str) -> Spec:
    """Make the paths of a spec absolute; raises `UserError` for a path that is too long."""
    for field, path in _list_paths(spec):
        if field.startswith(("datasets.", "arms.")) and is_remote(str(path)):
            continue
        refuse_long_path(path, where=f"{where}: {field}")
    store = spec.store
    if store is not None and "://" not in store:
        store = str(folder / expand_home(store, field=f"{where}: store"))
    return spec.model_copy(
        update={
            "datasets": {name: start_dataset(folder, name, one) for name, one in spec.datasets.items()},
            "model": spec.model and spec.model.start_paths(folder),
            "models": [model.start_paths(folder) for model in spec.models],
            **_start_captioner(folder, spec),
            "interventions": [
                _read_template(folder, one, where=where) if isinstance(one, DefenceSpec) else one
                for one in spec.interventions
            ],
            "judges": [start_judge_at(folder, judge) for judge in spec.judges],
            "arms": {
                name: arm.start_at(folder, field=f"arms.{show(name)}.answers")
                for name, arm in spec.arms.items()
            },
            "store": store,
        }
    )


def refuse_long_path(path: str | Path, *, where: str) -> None:
    """Raise `UserError` for a path, or a name in it, that is longer than file systems allow."""
    longest = max((len(os.fsencode(name)) for name in Path(path).parts), default=0)
    if longest > MOST_NAME:
        raise UserError(
            f"{where}: {show(path)} has a name of {longest} bytes, and a file system allows {MOST_NAME}; correct it."
        )
    if (length := len(os.fsencode(path))) > MOST_PATH:
        raise UserError(
            f"{where}: {show(path)} is {length} bytes long, and a path may have {MOST_PATH}; correct it."
        )


def _list_paths(spec: Spec) -> list[tuple[str, str | Path]]:
    """List every field that is or may be a path, with its name."""
    found: list[tuple[str, str | Path | None]] = [("store", spec.store)]
    for name, dataset in spec.datasets.items():
        found += [(f"datasets.{name}.{field}", getattr(dataset, field)) for field in PATH_FIELDS]
        found += [(f"datasets.{name}.clip.id", None if dataset.clip is None else dataset.clip.id)]
    found += [(f"arms.{show(name)}.answers", arm.answers) for name, arm in spec.arms.items()]
    models = [("model", spec.model)] + [(f"models.{index}", one) for index, one in enumerate(spec.models)]
    models += [("captions.by", None if spec.captions is None else spec.captions.by)]
    for field, model in models:
        if model is not None:
            found += [(f"{field}.id", model.id)]
            found += [(f"{field}.adapter.id", None if model.adapter is None else model.adapter.id)]
            weights = model.backbone_weights
            found += [(f"{field}.backbone_weights.gguf", None if weights is None else weights.gguf)]
            found += [(f"{field}.backbone.id", None if model.backbone is None else model.backbone.id)]
    for index, judge in enumerate(spec.judges):
        model_of = judge.options.get("model")
        found += [(f"judges.{index}.model", model_of if isinstance(model_of, str) else None)]
    return [(field, path) for field, path in found if path is not None]


def _read_template(folder: Path, defence: DefenceSpec, *, where: str) -> DefenceSpec:
    """Read the file of a defence's template; raises `UserError` for one that cannot be used."""
    if defence.file is None:
        return defence
    field = f"{where}: interventions.{show(defence.name)}.file"
    path = folder / expand_home(str(defence.file), field=field)
    try:
        return defence.with_text(read_text(path, most=MOST_TEMPLATE).strip())
    except MissingFileError:
        raise UserError(f"{field}: {show(path)} is not there; correct the path.") from None
    except UserError as error:
        raise UserError(f"{field}: {error}") from None
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"{field}: {show(path)}: {reason}") from None


def _start_captioner(folder: Path, spec: Spec) -> dict[str, Any]:
    if spec.captions is None or spec.captions.by is None:
        return {}
    by = spec.captions.by.start_paths(folder)
    return {"captions": spec.captions.model_copy(update={"by": by})}


def start_dataset(folder: Path, name: str, dataset: DatasetSpec) -> DatasetSpec:
    """Make the paths of a data set absolute, relative ones from `folder` on."""
    update: dict[str, Any] = {
        field: folder / expand_home(str(value), field=f"datasets.{name}.{field}")
        for field in PATH_FIELDS
        if (value := getattr(dataset, field)) is not None
        and not str(value).startswith(ORGANISM)
        and not is_remote(str(value))
    }
    if dataset.format == "huggingface" and not path_exists(update.get("path", folder)):
        del update["path"]  # an id on the hub
    if dataset.clip is not None:
        clip = folder / expand_home(dataset.clip.id, field=f"datasets.{name}.clip.id")
        if is_folder(clip):
            update["clip"] = dataset.clip.model_copy(update={"id": str(clip)})
    return dataset.model_copy(update=update)
