"""Data set formats, one file a format; a package adds its own by an entry point in the group `cmrm.formats`.

A format imports the shared modules of `cmrm.datasets` (rows, fields, documents) and no other format but those of
users' own files.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from pkgutil import resolve_name
from types import MappingProxyType

from cmrm.datasets.format import Format
from cmrm.errors import UserError

__all__ = ["Format", "find_format", "list_formats"]

GROUP = "cmrm.formats"
_HERE = "cmrm.datasets.formats"
# Import paths, imported lazily: a run imports the formats of its own data sets alone.
OWN: Mapping[str, str] = MappingProxyType(
    {
        "advbench": f"{_HERE}.advbench:FORMAT",
        "csv": f"{_HERE}.csv_file:FORMAT",
        "figstep": f"{_HERE}.figstep:FORMAT",
        "forbidden-questions": f"{_HERE}.forbidden_questions:FORMAT",
        "hades": f"{_HERE}.hades:FORMAT",
        "harmbench": f"{_HERE}.harmbench:FORMAT",
        "holisafe": f"{_HERE}.holisafe:FORMAT",
        "huggingface": f"{_HERE}.huggingface:FORMAT",
        "jailbreakbench": f"{_HERE}.jailbreakbench:FORMAT",
        "jailbreakv-28k": f"{_HERE}.jailbreakv_28k:FORMAT",
        "json": f"{_HERE}.json_file:FORMAT",
        "jsonl": f"{_HERE}.jsonl:FORMAT",
        "llava-bench-coco": f"{_HERE}.llava_bench_coco:FORMAT",
        "mm-safetybench": f"{_HERE}.mm_safetybench:FORMAT",
        "mm-safetybench-plus-plus": f"{_HERE}.mm_safetybench_plus_plus:FORMAT",
        "mm-vet": f"{_HERE}.mm_vet:FORMAT",
        "mmbench": f"{_HERE}.mmbench:FORMAT",
        "mossbench": f"{_HERE}.mossbench:FORMAT",
        "mssbench": f"{_HERE}.mssbench:FORMAT",
        "msts": f"{_HERE}.msts:FORMAT",
        "or-bench": f"{_HERE}.or_bench:FORMAT",
        "parquet": f"{_HERE}.parquet:FORMAT",
        "pope": f"{_HERE}.pope:FORMAT",
        "scienceqa": f"{_HERE}.scienceqa:FORMAT",
        "siuo": f"{_HERE}.siuo:FORMAT",
        "sorry-bench": f"{_HERE}.sorry_bench:FORMAT",
        "spa-vl": f"{_HERE}.spa_vl:FORMAT",
        "strongreject": f"{_HERE}.strongreject:FORMAT",
        "vlguard": f"{_HERE}.vlguard:FORMAT",
        "vlsafe": f"{_HERE}.vlsafe:FORMAT",
        "vlsbench": f"{_HERE}.vlsbench:FORMAT",
        "vqav2": f"{_HERE}.vqav2:FORMAT",
        "xstest": f"{_HERE}.xstest:FORMAT",
    }
)


def list_formats() -> list[str]:
    """List every format, built-in and from installed packages."""
    return sorted({*OWN, *entry_points(group=GROUP).names})


def find_format(name: str) -> Format:
    """Find a format by its name; raise `UserError` for an unknown name or an entry point that is no format."""
    if name in OWN:
        return resolve_name(OWN[name])
    for entry in entry_points(group=GROUP, name=name):
        try:
            found = entry.load()
        except (ImportError, AttributeError) as error:
            raise UserError(
                f"data format {name!r} of the entry point {entry.value} cannot be loaded: {error}."
            ) from error
        if not isinstance(found, Format):
            raise UserError(
                f"data format {name!r}: the entry point {entry.value} is no cmrm.datasets.formats.Format."
            )
        return found
    raise UserError(f"data format {name!r} is unknown; known formats: {', '.join(list_formats())}.")
