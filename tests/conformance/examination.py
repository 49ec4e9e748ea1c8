"""Everything that is examined of a family, on one tiny model that is built and loaded once for all processes."""

from __future__ import annotations

import fcntl
import json
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Any

from tests.conformance.odd_images import IMAGE_SIZE

# What can be examined: the function that does it, of a loaded model, in a module that is imported on need. A function
# returns what JSON can hold, and None of a family that it does not concern, and leaves the model as it was.
PARTS: Mapping[str, str] = MappingProxyType(
    {
        "checks": "tests.conformance.examination:run_all_checks",
        "odd": "tests.conformance.odd_images:show_odd_images",
        "traits": "tests.conformance.traits:find_traits",
        "corners": "tests.conformance.corners:show_corners",
        "derived": "tests.conformance.derived:derive_again",
        "media": "tests.conformance.media:compare_media",
        "controls": "tests.conformance.control_places:examine_controls",
        "positions": "tests.conformance.positions:compare_positions",
        "prefilling": "tests.conformance.prefilling:compare_prefills",
        "published": "tests.conformance.published:examine_published",
        "defences": "tests.conformance.defences:compare_defences",
    }
)


def examine_families(folder: Path, parts: Sequence[str], families: Sequence[str]) -> None:
    """Have what `examine_family` returns for each family in FAMILY.json in a folder.

    Any number of processes can do this at once: each takes a family that no other is at.
    """
    waiting = list(families)
    while waiting:
        busy = [family for family in waiting if not _examine_into(folder, parts, family, wait=False)]
        if len(busy) == len(waiting):
            _examine_into(folder, parts, busy.pop(0), wait=True)
        waiting = busy


def examine_family(name: str, parts: Sequence[str]) -> dict[str, Any]:
    """Build, load and examine a family's tiny model: what was found by part, and by part the traceback of what failed.

    A model that cannot be loaded has its traceback under `load`.
    """
    from tests.conformance.loading import load_tiny

    found, failed = dict[str, Any](), dict[str, str]()
    try:
        with tempfile.TemporaryDirectory() as folder:
            vlm = load_tiny(name, Path(folder))
            for part in (one for one in PARTS if one in parts):
                try:
                    found[part] = resolve_name(PARTS[part])(vlm)
                except Exception:  # noqa: BLE001 # whatever it is, the rest is still to be examined
                    failed[part] = traceback.format_exc()
    except Exception:  # noqa: BLE001 # as above
        failed["load"] = traceback.format_exc()
    return {"found": found, "failed": failed}


def run_all_checks(vlm: Any) -> list[dict[str, Any]]:
    """The findings of `cmrm doctor`."""
    from cmrm.doctor import run_checks

    return [asdict(finding) for finding in run_checks(vlm, image_size=IMAGE_SIZE)]


def _examine_into(folder: Path, parts: Sequence[str], family: str, *, wait: bool) -> bool:
    """Examine a family unless it has been; False if another process is at it, which can be waited for."""
    place = folder / f"{family}.json"
    with (folder / f"{family}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if not place.exists():
            unfinished = place.with_suffix(".part")
            unfinished.write_text(json.dumps(examine_family(family, parts)))
            unfinished.replace(place)
    return True
