"""Remote code of models (`trust_remote_code`): it runs only if the spec allows it, pinned with the weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cmrm.errors import UserError

AUTO_MAP = "auto_map"
# Separates another repository from its file in auto_map.
ELSEWHERE = "--"


def names_code(config: Mapping[str, Any]) -> bool:
    """Whether a config names classes in Python files of its folder (auto_map)."""
    return any(True for _ in _find_classes(config))


def describe_trust(model_id: str) -> str:
    """Explain `trust_remote_code` for a model that needs its own code."""
    return (
        f"model.trust_remote_code: {model_id!r} needs Python code of its own to be loaded, and such code does not run "
        "by default. It has all your permissions on this machine: read the *.py files beside its weights, and if you "
        "trust them set model.trust_remote_code: true. They are then part of the model's revision, and the report "
        "says that they ran."
    )


def refuse_code_from_elsewhere(folder: Path, *, where: str) -> None:
    """Raise `UserError` if a config of this folder names code in another repository, which is not pinned."""
    for path in sorted(folder.glob("*.json")):
        for name in _find_classes(_read(path)):
            repository, mark, rest = name.partition(ELSEWHERE)
            if mark:
                raise UserError(
                    f"model.trust_remote_code: {path.name} of {where!r} takes {rest!r} from another repository, "
                    f"{repository!r}, whose code could change without notice. Copy that Python file into the model's "
                    f"folder and write {rest!r} under {AUTO_MAP} instead."
                )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # loading the file reports the error


def _find_classes(content: Any) -> Iterator[str]:
    """Find every class that a nested auto_map names: `module.Class` or `owner/repository--module.Class`."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from _flatten(value) if name == AUTO_MAP else _find_classes(value)
    elif isinstance(content, list):
        for value in content:
            yield from _find_classes(value)


def _flatten(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _flatten(one)
