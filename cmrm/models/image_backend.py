"""Image backend of a processor, Pillow or torchvision, pinned with its version.

transformers uses torchvision if it can be imported, and the two differ by up to 20 grey levels. Nothing here imports
torch or transformers before a processor is loaded, so a run with nothing left to do never pays for them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from cmrm.errors import UserError

Backend = Literal["pillow", "torchvision"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
FIELD = "model.image_backend"
AUTO = "auto"
# The files of a model's folder that name its image processor.
FILES = ("config.json", "preprocessor_config.json", "processor_config.json")

# What transformers calls them.
_THEIRS = MappingProxyType({"pillow": "pil", "torchvision": "torchvision"})
_OURS = MappingProxyType({theirs: ours for ours, theirs in _THEIRS.items()})
# Where transformers lists its image processors, by backend; a later file overrides an earlier one.
_TABLES = ("auto_mappings.py", "image_processing_auto.py")
_ENTRY = re.compile(r'"([\w.-]+)",\s*(\{[^{}]*"(?:pil|torchvision)":[^{}]*\})')
_CLASS = re.compile(r'"(pil|torchvision)":\s*"(\w+)"')


def pin_image_backend(folder: Path, *, asked: str = AUTO, where: str, field: str = FIELD) -> str:
    """Choose the image backend of a model's folder and pin its version: `pillow 13.0.0`.

    With `auto` it is Pillow if transformers has such a class for the folder's image processor, else torchvision,
    whatever is installed. `asked` may be what this function returned before. `torchvision` is followed by Pillow's
    version too, since Pillow decodes the images. Raises `UserError`, naming `field`, for a backend that the image
    processor does not have, for a missing package, and if the pinned version is not the installed one.
    """
    listed = list_image_backends(folder)
    name = asked.partition(" ")[0]
    if name == AUTO:
        # A class that transformers does not list is the model's own code; otherwise loading fails with the reason.
        name = listed[0] if listed else "pillow"
    elif name not in BACKENDS:
        raise UserError(f"{field} is {asked!r}; give {AUTO}, {' or '.join(BACKENDS)}.")
    elif listed and name not in listed:
        raise UserError(_explain_absent(name, listed[0], where=where, field=field))
    backend = describe_image_backend(name, where=where, field=field)
    if " " in asked and asked != backend:
        raise UserError(
            f"{field}: {where!r} was planned with {asked}, and this process has {backend}; install the same version "
            "here, or run the command again where this one is installed."
        )
    return backend


def describe_image_backend(name: str, *, where: str, field: str = FIELD) -> str:
    """Name a backend with its installed versions; raises `UserError` if torchvision is missing."""
    pillow = f"pillow {version('pillow')}"
    if name == "pillow":
        return pillow
    try:
        # Without the local version (`+cpu`, `+cu128`): images are resized on the CPU.
        return f"torchvision {version('torchvision').partition('+')[0]}, {pillow}"
    except PackageNotFoundError:
        raise UserError(
            f"{field}: the image processor of {where!r} needs the package torchvision, which is not installed: "
            "pip install 'cmrm[vision]'"
        ) from None


def list_image_backends(folder: Path) -> tuple[Backend, ...]:
    """List the backends of a folder's image processor in transformers, Pillow first; empty if it is not listed."""
    name = _find_class_name(folder)
    tables = _read_tables()
    if name is None:
        found = tables.by_type.get(str(_read(folder / "config.json").get("model_type")), frozenset())
    else:
        # Names as older releases wrote them, and as a processor of one backend may have been saved.
        name = name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
        found = tables.by_class.get(name, frozenset())
    return tuple(backend for backend in BACKENDS if _THEIRS[backend] in found)


def read_image_settings(folder: Path) -> Mapping[str, Any]:
    """Read a folder's image processor settings as transformers does: processor_config.json first."""
    own = _read(folder / "processor_config.json").get("image_processor")
    return own if isinstance(own, dict) else _read(folder / "preprocessor_config.json")


def use_image_backend(
    processor: Any,
    folder: Path,
    *,
    backend: str,
    where: str,
    field: str = FIELD,
    trust_remote_code: bool = False,
) -> None:
    """Replace the image processor of a loaded processor if it has the other backend.

    transformers' own `backend` argument, given to the whole processor, would reach tokenizers and video processors too.
    Raises `UserError` if the image processor does not have the backend.
    """
    name = backend.partition(" ")[0]
    wanted = _THEIRS[name]
    # An image processor of the model's own code may not name its backend, and is left as it is.
    if getattr(getattr(processor, "image_processor", None), "backend", wanted) == wanted:
        return
    from transformers import AutoImageProcessor

    found = AutoImageProcessor.from_pretrained(
        folder, backend=wanted, trust_remote_code=trust_remote_code, local_files_only=True
    )
    # If it lacks a backend, transformers uses another one and only warns.
    if (other := getattr(found, "backend", wanted)) != wanted:
        raise UserError(_explain_absent(name, _OURS.get(other, other), where=where, field=field))
    processor.image_processor = found


def _explain_absent(name: str, other: str, *, where: str, field: str) -> str:
    return (
        f"{field}: the image processor of {where!r} has no {name} backend in transformers, only {other}; set "
        f"image_backend: {other}."
    )


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """The backends in transformers' tables, by its names: for each image processor class and for each model type."""

    by_class: Mapping[str, frozenset[str]]
    by_type: Mapping[str, frozenset[str]]


@cache
def _read_tables() -> _Tables:
    """Read transformers' tables as text: importing them would import torch, which takes seconds."""
    spec = find_spec("transformers")
    folder = Path(spec.origin).parent / "models" / "auto" if spec is not None and spec.origin else None
    files = [] if folder is None else [folder / name for name in _TABLES]
    by_class: dict[str, frozenset[str]] = {}
    by_type: dict[str, frozenset[str]] = {}
    for file in files:
        if not file.is_file():
            continue
        for model_type, listed in _ENTRY.findall(file.read_text(encoding="utf-8")):
            classes = dict(_CLASS.findall(listed))
            by_type[model_type] = frozenset(classes)
            for name in classes.values():
                by_class[name.removesuffix("Pil")] = frozenset(classes)
    return _Tables(by_class=by_class, by_type=by_type)


def _find_class_name(folder: Path) -> str | None:
    """Find the image processor class of a folder."""
    config = read_image_settings(folder)
    name = config.get("image_processor_type") or config.get("feature_extractor_type")
    return None if name is None else str(name)


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if the file is missing or unreadable, which loading the model reports."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
