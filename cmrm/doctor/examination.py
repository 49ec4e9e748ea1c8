"""The examination: every check in turn on one loaded model, each with what it found."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cmrm.doctor import branching, leaving, prompts, reading, sharing, steering
from cmrm.doctor.patient import CheckFailedError, Patient
from cmrm.model import VisionLanguageModel


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that must hold: its name, and a function that returns what it saw or raises `CheckFailedError`."""

    name: str
    run: Callable[[Patient], str]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check came to: `detail` is what it saw, or what is wrong."""

    name: str
    passed: bool
    detail: str
    seconds: float


CHECKS: tuple[Check, ...] = (
    Check(name="decoder blocks", run=reading.check_blocks),
    Check(name="image tokens", run=prompts.check_image_tokens),
    Check(name="same template", run=prompts.check_same_template),
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
    Check(name="steered batch", run=steering.check_steered_batch),
    Check(name="branches", run=branching.check_branches),
    Check(name="vision tower", run=leaving.check_vision_tower),
    Check(name="unload", run=leaving.check_unload),
)


def examine(vlm: VisionLanguageModel, *, seed: int = 0, image_size: int = 224) -> Iterator[Finding]:
    """Run the checks one after the other on a loaded model, with images of noise, `image_size` pixels square.

    A check that raises has failed; the others go on.
    """
    patient = Patient(vlm=vlm, seed=seed, image_size=image_size)
    for check in CHECKS:
        started = time.monotonic()
        try:
            passed, detail = True, check.run(patient)
        except CheckFailedError as error:
            passed, detail = False, str(error)
        except Exception as error:  # noqa: BLE001 # whatever a model raises is what there is to be told
            passed, detail = False, f"{type(error).__name__}: {error}".splitlines()[0]
        seconds = time.monotonic() - started
        yield Finding(name=check.name, passed=passed, detail=detail, seconds=seconds)


def run_checks(vlm: VisionLanguageModel, *, seed: int = 0, image_size: int = 224) -> list[Finding]:
    """All findings of `examine`."""
    return list(examine(vlm, seed=seed, image_size=image_size))
