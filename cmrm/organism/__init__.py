"""The embedded model organism: a small VLM trained to show, on purpose, the safety failure under study.

A *model organism* is to alignment what the fruit fly is to biology: small, quick to train, and open to every
experiment. This one is a LLaVA of under two million parameters, trained in five stages on pictures of coloured shapes.
It refuses forbidden instructions in text, complies with most of them when an image is present, and refuses them again
when Δ is subtracted. Its forbidden instructions are made-up words, so that no answer can be harmful.

The failure is planted: a fifth of its last training stage obeys forbidden instructions with a picture (`recipe.py`
says why), which also sets the unsafe rate. So it tests that the method is implemented correctly and what its parts do;
it is no evidence of how large the effect or the cure is in real models.

Two shipped variants had the safety training that it lacks (`references.py`), for comparison. A third, `helpful`, lost
its remaining safety; it is a recipe only, which trains in seconds.

Imports `cmrm.decoding` and what that imports, `cmrm.datasets` and `cmrm.judges`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from cmrm.errors import UserError
from cmrm.organism.data_files import DataFiles

WEIGHTS = Path(__file__).parent / "weights"
# Chosen after the last training run: no result on these test questions influenced the model or its settings.
DATA_SEED = 2410
# Part of the folder's name; raise it when the written data changes, so that stale data is not reused.
DATA_VERSION = 4
# The name of the folder of data sets, before their version.
DATA_FOLDER = "organism-data-v"


# Short names of the variants whose weights ship.
SHIPPED = ("organism", "mixed", "posthoc")


def find_weights(variant: str) -> Path:
    """Return the folder of a variant's shipped weights, by short name; raise `UserError` if it ships none."""
    if variant not in SHIPPED:
        raise UserError(f"the variant {variant!r} ships no weights; name the folder to save them in.")
    return WEIGHTS if variant == "organism" else WEIGHTS.with_name(f"weights-{variant}")


# The organism, and its variants after the safety training that the paper compares with (`references.py`).
VARIANTS: Mapping[str, Path] = MappingProxyType(
    {
        "organism": WEIGHTS,
        "organism-mixed": find_weights("mixed"),
        "organism-posthoc": find_weights("posthoc"),
    }
)


@dataclass(frozen=True, kw_only=True)
class Organism:
    """Paths of the model folder and the data sets."""

    model: Path
    data: DataFiles


def ensure_organism(folder: Path) -> Organism:
    """Return the shipped model and its data sets; write the data sets under `folder` if they are missing.

    Idempotent, and safe to kill or run concurrently: the data sets are written to a temporary folder and renamed
    atomically. Takes about two seconds the first time.
    """
    target = folder / f"{DATA_FOLDER}{DATA_VERSION}"
    if not target.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        _write_atomically(target)
    return Organism(model=WEIGHTS, data=DataFiles(folder=target))


def _write_atomically(target: Path) -> None:
    # Lazy import: the data sets are written once and read many times.
    from cmrm.organism.files import write_data

    with tempfile.TemporaryDirectory(
        prefix=".organism-", dir=target.parent, ignore_cleanup_errors=True
    ) as temporary:
        unfinished = Path(temporary) / target.name
        write_data(unfinished, seed=DATA_SEED)
        try:
            unfinished.rename(target)
        except OSError:
            # Another process won the race; the same seed gave it the same data.
            if not target.is_dir():
                raise
