"""What `cmrm export` is given, a run or a file of Δ, as a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cmrm.errors import UserError
from cmrm.export.request import ConstantShift, ExportRequest, Origin, make_constant
from cmrm.models.revision import ModelIdentity, read_config, resolve_model
from cmrm.organism.places import resolve_organism_model
from cmrm.steering.intervention import Intervention
from cmrm.steering.shift import load_shift
from storage.store import Store
from tasks.export.arms import BlockChoice, RunArm, describe_origin, find_arm, make_shift, number_blocks
from tasks.export.models import count_blocks, read_row, refuse_other_model

SHIFT_ENDING = ".safetensors"
WORDS = frozenset(("upper_half", "middle", "last", "all"))


@dataclass(frozen=True, kw_only=True)
class ExportSource:
    """A request, and what it was made of: the run's arm, or None for a file of Δ; `system` is the run's system line."""

    request: ExportRequest
    arm: RunArm | None
    blocks: BlockChoice | None

    @property
    def system(self) -> str | None:
        """The system line that the run's prompts had."""
        return None if self.arm is None else self.arm.model.get("system")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options of the command that say what is exported."""

    model: str | None
    revision: str | None
    arm: str | None
    alpha: float | None
    blocks: str | None
    dtype: str
    device: str


def read_source(given: str, asked: Asked, *, store: str) -> ExportSource:
    """Make the request of a run (id or `latest`) or of a file of Δ; raises `UserError` or `StoreError`."""
    chosen = read_blocks(asked.blocks)
    if given.endswith(SHIFT_ENDING):
        return _read_file(Path(given), asked, chosen)
    if asked.revision is not None:
        raise UserError("--revision: a run says at which revision its model was; leave it out.")
    opened = Store.open(store)
    arm = find_arm(opened, given, arm=asked.arm, alpha=asked.alpha, model=asked.model)
    blocks = count_blocks(arm.identity)
    shift = make_shift(arm, store=opened, blocks=blocks, chosen=chosen)
    request = _make_request(
        arm.identity,
        shift,
        describe_origin(arm, store=opened, blocks=blocks),
        blocks=blocks,
        dtype=asked.dtype,
    )
    row = read_row(arm.model, arm.identity.model_type)
    request = replace(request, label=arm.model.get("label"), device=asked.device, family=row)
    return ExportSource(request=request, arm=arm, blocks=chosen)


def read_blocks(text: str | None) -> BlockChoice | None:
    """Parse `--blocks`: a word, or numbers with commas; raises `UserError`."""
    if text is None or text in WORDS:
        return text
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"--blocks {text!r}: give {', '.join(sorted(WORDS))}, or numbers such as 5,6,7."
        ) from None


def _read_file(path: Path, asked: Asked, chosen: BlockChoice | None) -> ExportSource:
    for option, value, why in (
        ("--model", asked.model, "a file of Δ does not hold its model"),
        ("--alpha", asked.alpha, "a file of Δ has no strength"),
    ):
        if value is None:
            raise UserError(f"{option}: {why}; give it.")
    if asked.arm is not None:
        raise UserError("--arm: a file of Δ has no arms; leave it out.")
    assert asked.model is not None and asked.alpha is not None  # noqa: PT018 - checked above
    own = resolve_organism_model(asked.model)
    identity = resolve_model(asked.model if own is None else str(own), revision=asked.revision or "main")
    shift = load_shift(path)
    refuse_other_model(shift.made_from, identity, where=f"--model: {path.name}")
    blocks = count_blocks(identity)
    numbers = shift.blocks if chosen is None else number_blocks(chosen, blocks)
    acting = Intervention(delta=shift.choose(numbers), alpha=asked.alpha, blocks=numbers)
    origin = Origin(arm=path.name, made_from=shift.made_from)
    request = _make_request(
        identity, make_constant(acting, arm=path.name), origin, blocks=blocks, dtype=asked.dtype
    )
    request = replace(request, label=None if own is None else asked.model, device=asked.device)
    return ExportSource(request=request, arm=None, blocks=chosen)


def _make_request(
    identity: ModelIdentity, shift: ConstantShift, origin: Origin, *, blocks: int, dtype: str
) -> ExportRequest:
    config: Mapping[str, Any] = read_config(identity.id, identity.folder)
    return ExportRequest(
        model=identity, config=config, shift=shift, origin=origin, blocks=blocks, dtype=dtype
    )
