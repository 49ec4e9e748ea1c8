"""Outcomes of examinations of derived rows, kept in the user's cache for the same model, options and software."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cmrm.models.devices import choose_device
from cmrm.models.families import RULES, Admission, Family
from cmrm.models.revision import ModelIdentity

log = logging.getLogger("cmrm.models")

SOFTWARE = ("cmrm", "torch", "transformers", "tokenizers", "pillow")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A derived row as it is used, and why so."""

    family: Family
    admission: Admission


def name_outcome(
    identity: ModelIdentity, *, device: str = "auto", adapter: Any = None, **options: Any
) -> str:
    """Name the outcome of a model under loading options by a digest of all that it depends on."""
    content = {
        "rules": RULES,
        "model": identity.fingerprint,
        "code": identity.trust_remote_code,
        "adapter": None if adapter is None else adapter.fingerprint,
        "device": choose_device(device).type,
        "options": {name: asdict(one) if is_dataclass(one) else one for name, one in options.items()},  # type: ignore[arg-type] # no classes
        "software": {name: _find_version(name) for name in SOFTWARE},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def read_outcome(name: str) -> Outcome | None:
    """Read an outcome that was kept; None if there is none, or none that can be read and is whole."""
    try:
        kept = json.loads(_find_file(name).read_text(encoding="utf-8"))
        content = kept["content"]
        if kept["sha256"] != _digest(content):
            return None
        row: dict[str, Any] = {
            name: tuple(one) if isinstance(one, list) else one for name, one in content["family"].items()
        }
        return Outcome(family=Family(**row), admission=Admission(**content["admission"]))
    # Without a home, RuntimeError.
    except (OSError, ValueError, LookupError, TypeError, RuntimeError):
        return None


def write_outcome(name: str, outcome: Outcome) -> None:
    """Keep an outcome, in one step; where nothing can be written, it is derived again by the next process."""
    content = asdict(outcome)
    try:
        file = _find_file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=file.parent, prefix=f".{name[:12]}-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump({"content": content, "sha256": _digest(content)}, stream)
            Path(part).replace(file)
        except BaseException:
            with suppress(OSError):
                Path(part).unlink()
            raise
    except (OSError, RuntimeError) as error:
        log.info("the outcome of the examination cannot be kept: %s", error)


def _find_file(name: str) -> Path:
    """The file of an outcome, in the folder that also holds cmrm's other caches."""
    own = os.environ.get("CMRM_CACHE")
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cmrm"
    return (Path(own) if own else usual) / "examined" / f"{name}.json"


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _find_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
