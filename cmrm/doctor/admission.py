"""Load a model whatever its type: a row that was derived is examined first, and used in the fastest way that passed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from cmrm.doctor.examination import CHECKS, Check
from cmrm.doctor.fixture import CheckFailedError, ModelFixture
from cmrm.doctor.media import find_forms
from cmrm.doctor.outcomes import Outcome, name_outcome, read_outcome, write_outcome
from cmrm.errors import UserError
from cmrm.models import loading
from cmrm.models.adapters import AdapterIdentity
from cmrm.models.attention import AUTO, load_by_attention
from cmrm.models.derived_batches import IMAGE_SIZE, draw_two_sizes
from cmrm.models.derived_family import derive_model, explain_refusal
from cmrm.models.families import Admission, Family, describe_way, list_settings
from cmrm.models.family_lookup import find_family
from cmrm.models.oom import is_out_of_memory
from cmrm.models.pinning import check_unchanged
from cmrm.models.revision import ModelIdentity
from cmrm.models.vision_types import is_registered
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prefix.sharing import explain_unshared
from cmrm.steering.capture import embed
from cmrm.untrusted.printable import first_line

log = logging.getLogger("cmrm.models")

# At which size a blank is one colour, a run measures by itself: images of other sizes are shown by then.
LEFT_OUT = "stimulus"
# Those on which a faster way may fail come first.
FIRST = ("shared prefixes", "branches", "batch, left padding", "batch, right padding", "steered batch")


def check_two_sizes(fixture: ModelFixture) -> str:
    """Prompts with images of two sizes have in a batch the states that each has alone."""
    if reason := fixture.explain_no_batches():
        return reason
    vlm, prompts = fixture.vlm, draw_two_sizes()
    blocks = range(len(vlm.blocks))
    try:
        alone = torch.cat([embed(vlm, [prompt], blocks=blocks) for prompt in prompts])
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return f"not tried: an image is refused by itself ({first_line(error)})"
    worst = fixture.agree(embed(vlm, prompts, blocks=blocks), alone, what="states of images of two sizes")
    return f"a batch of 2 equals 2 alone (error {worst:.1g})"


# The doctor's own images are all of one size.
TWO_SIZES = Check(name="batch, images of two sizes", run=check_two_sizes)


@dataclass(frozen=True, kw_only=True)
class _Failure:
    check: str
    found: str


def load_admitted(
    identity: ModelIdentity,
    *,
    family: Family | None = None,
    adapter: AdapterIdentity | None = None,
    attn_implementation: str = AUTO,
    **options: Any,
) -> VisionLanguageModel:
    """Load a model as `load_model` does; one whose type has no row gets a derived row, if it passes the checks.

    Of the ways in which its prompts can be read, the fastest is taken that passes every check: shared prefixes, plain
    batches, one at a time. The outcome is kept for this model, these options and these versions of the software.
    `attn_implementation` `auto` is sdpa, or eager where the model has no other. Raises `UserError` as `load_model`
    does, and for a model that fails a check in each way.
    """
    given = family or find_family(identity.model_type)
    options |= {"adapter": adapter}
    if given is not None:
        return _load(identity, attn_implementation, family=given, **options)
    name = name_outcome(identity, attn_implementation=attn_implementation, **options)
    # The code of a class that this process registered is in no revision, and may be another the next time.
    kept = not is_registered(identity.model_type)
    known = read_outcome(name) if kept else None
    if known is None:
        log.info("model type %s is in no table: a row is derived and examined", identity.model_type)
        derived = _load(identity, attn_implementation, prepare=derive_model, **options)
        vlm = admit(derived, where=identity.id)
        assert vlm.admission is not None
        # An outcome of other files than the name says would be believed whenever those come back.
        for one in (identity, adapter):
            if one is not None:
                check_unchanged(one)
        if kept:
            write_outcome(name, Outcome(family=vlm.family, admission=vlm.admission))
    else:
        vlm = replace(
            _load(identity, attn_implementation, family=known.family, **options), admission=known.admission
        )
    log.info("model %s: %s", identity.id, describe_admission(vlm))
    return vlm


def admit(vlm: VisionLanguageModel, *, where: str) -> VisionLanguageModel:
    """Examine a model with a derived row, and return it with the fastest row that passes every check.

    The row lists the forms of media that pass theirs.

    Raises `UserError` naming the check that fails whatever the way, what it measured, and what to try.
    """
    failure: _Failure | None = None
    slower = ""
    for family in list_ways(vlm.family):
        own = replace(vlm, family=family)
        if family.shares != "nothing" and (unshared := explain_unshared(own, images=0)):
            # Prefixes would not be shared whatever the row says, and no check would have tried.
            slower = slower or unshared
            continue
        failure = next(_find_failures(own), None)
        if failure is None:
            fixture = ModelFixture(vlm=own, seed=0, image_size=IMAGE_SIZE)
            return replace(
                own,
                family=replace(family, media=find_forms(fixture)),
                admission=Admission(way=describe_way(family), reason=slower),
            )
        slower = slower or f"check “{failure.check}”: {failure.found}"
    assert failure is not None
    raise UserError(explain_refusal(vlm.family.model_type, failure.check, failure.found, where=where))


def list_ways(family: Family) -> Iterator[Family]:
    """List the rows in which a derived row may be used, the fastest first."""
    yield family
    if family.shares != "nothing":
        yield replace(family, shares="nothing")
    yield replace(family, shares="nothing", batches=False, mixed_batches=False)


def describe_admission(vlm: VisionLanguageModel) -> str:
    """Describe a derived row and the way in which it is used, for logs; empty for a row of a table."""
    if vlm.admission is None:
        return ""
    row = ", ".join(f"{name} {value!r}" for name, value in list_settings(vlm.family).items())
    why = f" (no faster: {vlm.admission.reason})" if vlm.admission.reason else ""
    attention = vlm.model.config.get_text_config()._attn_implementation
    return (
        f"its type is in no table; the row derived from it passes the checks: {row}; attention by {attention}; "
        f"{vlm.admission.way}{why}"
    )


def _find_failures(vlm: VisionLanguageModel) -> Iterator[_Failure]:
    fixture = ModelFixture(vlm=vlm, seed=0, image_size=IMAGE_SIZE)
    checks = [check for check in (*CHECKS, TWO_SIZES) if check.name != LEFT_OUT]
    for check in sorted(checks, key=lambda check: check.name not in FIRST):
        try:
            check.run(fixture)
        except CheckFailedError as error:
            yield _Failure(check=check.name, found=str(error))
        except Exception as error:
            if is_out_of_memory(error):
                raise UserError(
                    f"model.id: out of memory while the row derived for {vlm.family.model_type} was examined, on three "
                    "short prompts. Free some memory, or give a smaller model.dtype or model.quantization."
                ) from error
            lines = str(error).strip().splitlines() or [""]
            yield _Failure(check=check.name, found=f"{type(error).__name__}: {lines[0]}"[:300])


def _load(identity: ModelIdentity, attention: str, **options: Any) -> VisionLanguageModel:
    return load_by_attention(
        attention, lambda one: loading.load_model(identity, attn_implementation=one, **options)
    )
