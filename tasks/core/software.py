"""Versions of packages that change states and answers: recorded in each manifest, reported where they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

from storage.records.manifest import Manifest

PACKAGES = ("cmrm", "torch", "transformers", "tokenizers", "pillow", "torchvision")
FIELD = "software"
IMAGE_BACKEND = "image_backend"
ABSENT = "none"

# Versions by package.
Software = Mapping[str, str]


@lru_cache(maxsize=1)
def list_software() -> Software:
    """List the installed versions, without importing anything; `none` for a package that is not installed."""
    return {name: _find_version(name) for name in PACKAGES}


def gather_software(manifests: Iterable[Manifest]) -> dict[str, list[str]]:
    """Collect the versions that made these results, by package; empty if no manifest records any.

    The image backend is one of them.
    """
    found: dict[str, set[str]] = {}
    for manifest in manifests:
        for name, one in (manifest.provenance.get(FIELD) or {}).items():
            found.setdefault(str(name), set()).add(str(one))
        # Chosen per model, so it is in the key content of what a model made from images.
        if (backend := manifest.content.get(IMAGE_BACKEND)) is not None:
            found.setdefault("image backend", set()).add(str(backend))
    return {name: sorted(found[name]) for name in sorted(found)}


def describe_software(found: Mapping[str, Sequence[str]]) -> list[str]:
    """Describe the versions that made the results, and which packages changed in between."""
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
