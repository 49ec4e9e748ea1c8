"""Compare each Δ that two runs measured, block by block, and whether anchors and images were the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cmrm.steering.shift_changes import BlockChange, compare_blocks
from storage.errors import StoreError
from storage.records.hashing import canonical_json
from storage.records.manifest import Manifest, manifest_file, read_manifest
from storage.sql.shifts import shift_rows
from storage.store import Store
from tasks.core.stage_name import StageName

Name = tuple[str, str, str]


@dataclass(frozen=True, kw_only=True)
class ShiftChange:
    """One dataset-level Δ before and after: by model (a label), meaningless image and method.

    `anchors` counts those of either side. `differs` names what differs besides the model (`anchors`, `image`), or
    `unknown`. `fault` says why the blocks could not be compared, '' where they were.
    """

    model: str
    image: str
    method: str
    anchors: tuple[int, int]
    differs: tuple[str, ...]
    blocks: tuple[BlockChange, ...] = ()
    fault: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ShiftChange:
        """Restore a change from `to_json`."""
        return cls(
            **{name: content[name] for name in ("model", "image", "method", "fault")},
            anchors=(content["anchors"][0], content["anchors"][1]),
            differs=tuple(content["differs"]),
            blocks=tuple(BlockChange(**block) for block in content["blocks"]),
        )


def compare_shifts(
    store: Store,
    before: Sequence[Manifest],
    after: Sequence[Manifest],
    *,
    labels: Sequence[Mapping[str, str]],
) -> list[ShiftChange]:
    """Compare every Δ that both runs measured; `labels` map each run's models to common names."""
    sides = [
        {name: manifest for manifest in manifests if (name := _name(manifest, names)) is not None}
        for manifests, names in zip((before, after), labels, strict=True)
    ]
    return [_compare(store, name, sides[0][name], own) for name, own in sides[1].items() if name in sides[0]]


def _name(manifest: Manifest, labels: Mapping[str, str]) -> Name | None:
    made = manifest.provenance
    label = labels.get(str(made.get("model")))
    if label is None:
        return None
    part = made.get("part")
    image = str(made.get("image")) if part is None else f"{made.get('image')}, its part of {part}"
    return label, image, str(made.get("method"))


def _compare(store: Store, name: Name, before: Manifest, after: Manifest) -> ShiftChange:
    model, image, method = name
    sides = (before, after)
    found: dict[str, Any] = {
        "model": model,
        "image": image,
        "method": method,
        "anchors": tuple(int(side.provenance.get("count") or 0) for side in sides),
        "differs": _find_differences(store, sides),
    }
    vectors = [{row["block"]: row["vector"] for row in shift_rows(store, side)} for side in sides]
    if not all(vectors):
        return ShiftChange(**found, fault="its file holds no Δ")
    try:
        return ShiftChange(**found, blocks=compare_blocks(*vectors))
    except ValueError as error:
        return ShiftChange(**found, fault=str(error))


def _find_differences(store: Store, sides: Sequence[Manifest]) -> tuple[str, ...]:
    try:
        measured = [_read_measured(store, side) for side in sides]
    except (StoreError, KeyError, TypeError):
        # Hidden states may be removed while Δ is kept: then it is unknown what Δ was measured on.
        return ("unknown",)
    return tuple(name for name in ("anchors", "image") if measured[0][name] != measured[1][name])


def _read_measured(store: Store, shift: Manifest) -> dict[str, list[bytes]]:
    """What a Δ was measured on, from its hidden states' manifests: anchors and image, in any order of shards."""
    contents = [
        read_manifest(path, store.read(path)).content
        for pair in shift.content["pairs"]
        for path in (manifest_file(StageName.EXTRACT_STATES, key) for key in pair)
    ]
    fields = {"anchors": "samples", "image": "image"}
    return {
        name: sorted(canonical_json(content[field]) for content in contents) for name, field in fields.items()
    }
