"""Load a model by its name, and check it."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath

from cmrm.doctor.admission import load_admitted
from cmrm.doctor.examination import CHECKS, Finding, examine
from cmrm.errors import UserError
from cmrm.models.loading import Dtype
from cmrm.models.pinning import check_unchanged, find_folder
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import VisionLanguageModel
from cmrm.organism.places import resolve_organism_model


def load_model(
    path_or_id: str | PathLike[str],
    *,
    revision: str | None = None,
    dtype: Dtype = "auto",
    device: str = "auto",
) -> VisionLanguageModel:
    """Load a vision-language model, ready to be read and steered.

    `path_or_id` is a folder saved by transformers, a hub id, or `organism` for the embedded model. `revision` is a
    branch, tag or commit of a hub id, by default `main`. `dtype` is that of the weights (`auto`: as they are kept);
    `device` is `auto`, `cpu`, `cuda` or one of several such as `cuda:1`. Only safetensors are read, and no code that a
    model brings is run.
    A model whose type is in no table gets a row of its own, which is examined before it is used.
    Raises `UserError` for a model that cannot be had, fails the examination, or does not fit into memory.

    Source: transformers, `AutoModelForImageTextToText.from_pretrained`; the model types are in `docs/models.md`.

    >>> import cmrm
    >>> vlm = cmrm.load_model("organism", dtype="float32", device="cpu")
    >>> len(vlm.blocks), vlm.hidden_size
    (8, 128)
    """
    given = fspath(path_or_id)
    embedded = resolve_organism_model(given)
    if revision is not None and (embedded is not None or find_folder(given) is not None):
        raise UserError(f"model.revision: {given!r} is a folder, which has no revisions; leave it out.")
    identity = resolve_model(given if embedded is None else str(embedded), revision=revision or "main")
    vlm = load_admitted(identity, dtype=dtype, device=device)
    # What was read between two equal digests is what the identity names.
    check_unchanged(identity)
    return vlm


def check(
    vlm: VisionLanguageModel, *, names: Sequence[str] | None = None, image_size: int | None = None
) -> list[Finding]:
    """Check on a loaded model that reading and steering do what they say, as `cmrm doctor` does.

    `names` are the checks to run, all 24 by default; `image_size` is the side of the images to try it with, in pixels,
    by default that of the model's family.
    A check that fails, or raises, is a finding with `passed` false and the reason in `detail`.
    Raises `UserError` for an unknown name.

    Source: the laws in `tests/cmrm/steering/test_laws.py`; each check is described in `docs/models.md`.

    >>> import cmrm
    >>> vlm = cmrm.load_model("organism", dtype="float32", device="cpu")
    >>> [finding.passed for finding in cmrm.check(vlm, names=["exactness", "identity"], image_size=32)]
    [True, True]
    """
    known = {one.name: one for one in CHECKS}
    if unknown := [name for name in names or () if name not in known]:
        raise UserError(f"there is no check {unknown[0]!r}; the checks are {', '.join(known)}.")
    checks = None if names is None else [known[name] for name in names]
    return list(examine(vlm, image_size=image_size, checks=checks))
