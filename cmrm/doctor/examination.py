"""Run every diagnostic check on one loaded model and report what each found."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cmrm.doctor import branching, media, mixing, prompts, reading, sharing, side_effects, steering, stimulus
from cmrm.doctor.fixture import CheckFailedError, ModelFixture
from cmrm.models.vlm import VisionLanguageModel


@dataclass(frozen=True, kw_only=True)
class Check:
    """A named check: `run` returns what it measured, or raises `CheckFailedError`."""

    name: str
    run: Callable[[ModelFixture], str]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of a check: `detail` says what it measured, or what is wrong.

    >>> import cmrm
    >>> vlm = cmrm.load_model("organism", dtype="float32", device="cpu")
    >>> (finding,) = cmrm.check(vlm, names=["decoder blocks"])
    >>> finding.name, finding.passed
    ('decoder blocks', True)
    """

    name: str
    passed: bool
    detail: str
    seconds: float


CHECKS: tuple[Check, ...] = (
    Check(name="decoder blocks", run=reading.check_blocks),
    Check(name="image tokens", run=prompts.check_image_tokens),
    Check(name="same template", run=prompts.check_same_template),
    Check(name="stimulus", run=stimulus.check_stimulus),
    Check(name="states", run=reading.check_states),
    Check(name="answering", run=reading.check_answering),
    Check(name="batch, left padding", run=reading.check_left_padding),
    Check(name="batch, right padding", run=reading.check_right_padding),
    Check(name="shared prefixes", run=sharing.check_shared_prefixes),
    Check(name="exactness", run=steering.check_exactness),
    Check(name="identity", run=steering.check_identity),
    Check(name="proof of steering", run=steering.check_proof),
    Check(name="every row", run=steering.check_every_row),
    Check(name="every step", run=steering.check_every_step),
    Check(name="reference, prefill", run=steering.check_prefill_reference),
    Check(name="reference, every_step", run=steering.check_every_step_reference),
    Check(name="reference, all", run=steering.check_all_reference),
    Check(name="reference, incremental", run=steering.check_incremental_reference),
    Check(name="projection", run=steering.check_projection),
    Check(name="steered batch", run=steering.check_steered_batch),
    Check(name="branches", run=branching.check_branches),
    Check(name="own prompts and mixed logits", run=mixing.check_own_prompts),
    Check(name="media", run=media.check_media),
    Check(name="vision tower", run=side_effects.check_vision_tower),
    Check(name="unload", run=side_effects.check_unload),
)

# Of a text-only model, which is shown no image and never steered: what reading and answering text rests on.
OF_TEXT = frozenset(
    (
        "decoder blocks",
        "states",
        "answering",
        "batch, left padding",
        "batch, right padding",
        "shared prefixes",
        "branches",
    )
)


def list_checks(vlm: VisionLanguageModel) -> tuple[Check, ...]:
    """List the checks of a model: all of them, or those of a text-only one."""
    return tuple(check for check in CHECKS if not vlm.text_only or check.name in OF_TEXT)


def examine(
    vlm: VisionLanguageModel,
    *,
    seed: int = 0,
    image_size: int | None = None,
    checks: Sequence[Check] | None = None,
) -> Iterator[Finding]:
    """Run all checks of the model, or the given ones, on a loaded model, with images `image_size` pixels square.

    The model's family chooses a size of None. A check that raises has failed; the others still run.
    """
    size = vlm.family.image_size if image_size is None else image_size
    fixture = ModelFixture(vlm=vlm, seed=seed, image_size=size)
    for check in list_checks(vlm) if checks is None else checks:
        started = time.monotonic()
        try:
            passed, detail = True, check.run(fixture)
        except CheckFailedError as error:
            passed, detail = False, str(error)
        except Exception as error:  # noqa: BLE001 # any exception of the model is the finding
            passed, detail = False, f"{type(error).__name__}: {error}".splitlines()[0]
        seconds = time.monotonic() - started
        yield Finding(name=check.name, passed=passed, detail=detail, seconds=seconds)


def run_checks(vlm: VisionLanguageModel, *, seed: int = 0, image_size: int | None = None) -> list[Finding]:
    """Run all checks and return their findings as a list."""
    return list(examine(vlm, seed=seed, image_size=image_size))
