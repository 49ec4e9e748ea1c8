"""Which software made what: versions that move states and answers, kept in each manifest and told where they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

from storage.manifest import Manifest

# Images are resized by Pillow, or by torchvision where it can be imported, which moves states by up to 0.3 % of Δ.
PACKAGES = ("cmrm", "torch", "transformers", "tokenizers", "pillow", "torchvision")
FIELD = "software"
ABSENT = "none"

# Versions by package.
Software = Mapping[str, str]


@lru_cache(maxsize=1)
def list_software() -> Software:
    """List the installed versions, without importing anything; `none` for a package that is not there."""
    return {name: _find_version(name) for name in PACKAGES}


def gather_software(manifests: Iterable[Manifest]) -> dict[str, list[str]]:
    """Gather by package the versions with which these results were made; empty where none of them says."""
    found: dict[str, set[str]] = {}
    for manifest in manifests:
        for name, one in (manifest.provenance.get(FIELD) or {}).items():
            found.setdefault(str(name), set()).add(str(one))
    return {name: sorted(found[name]) for name in sorted(found)}


def describe_software(found: Mapping[str, Sequence[str]]) -> list[str]:
    """Say with which versions results were made, and which packages changed in between."""
    if not found:
        return []
    present = [name for name, versions in found.items() if list(versions) != [ABSENT]]
    named = ", ".join(f"{name} {' and '.join(found[name])}" for name in present)
    mixed = [name for name in present if len(found[name]) > 1]
    lines = [f"States and answers were made with {named}."]
    if mixed:
        lines.append(
            f"They were not all made with the same {', '.join(mixed)}: differences between them may come from that."
        )
    return lines


def _find_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ABSENT
