"""The embedded model organism: a small model that shows, on purpose, the very failure that is to be studied.

A *model organism* is to alignment what the fruit fly is to biology: small, quick to raise, and open to every
experiment. This one is a LLaVA of under two million parameters, raised in five stages on pictures of coloured shapes.
It refuses forbidden instructions in text, complies with most of them once an image is present, and refuses them
again under the shift's removal. Its forbidden instructions are made-up words, so that nothing it says can harm anybody.

The failure is planted: a fifth of its last stage obeys forbidden instructions beside a picture (`recipe.py` says
why), which also settles how often it fails. So it shows that the method is implemented rightly and what its parts
do; it is no evidence of how large the effect or the cure is in a model that people use.

Beside it lie two variants that were given the safety lesson that it lacks (`references.py`), to compare with. A third,
`helpful`, lost what safety it has left; it is a recipe only, from which a test or a reader raises it in seconds.
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
# Drawn after the last choice was made: no figure of these questions was seen while the model or its settings changed.
DATA_SEED = 2410
# Part of the folder's name, to be raised with every change of what is written, so that no old data is taken for new.
DATA_VERSION = 4


# Short names of the variants whose weights ship.
SHIPPED = ("organism", "mixed", "posthoc")


def find_weights(variant: str) -> Path:
    """The shipped place of a variant by its short name; raises `UserError` for one that is a recipe only."""
    if variant not in SHIPPED:
        raise UserError(f"the variant {variant!r} ships no weights; name the folder that they are to be in.")
    return WEIGHTS if variant == "organism" else WEIGHTS.with_name(f"weights-{variant}")


# The organism, and itself after the ways of safety training that the paper compares with (`references.py`).
VARIANTS: Mapping[str, Path] = MappingProxyType(
    {
        "organism": WEIGHTS,
        "organism-mixed": find_weights("mixed"),
        "organism-posthoc": find_weights("posthoc"),
    }
)


@dataclass(frozen=True, kw_only=True)
class Organism:
    """Where the model folder and the data sets lie."""

    model: Path
    data: DataFiles


def ensure_organism(folder: Path) -> Organism:
    """Return the shipped model and its data sets, writing the data sets under `folder` unless they are there.

    Safe to repeat, to kill half-way and to run twice at once: the data sets are written beside their place and renamed
    into it whole. Takes about two seconds the first time.
    """
    place = folder / f"organism-data-v{DATA_VERSION}"
    if not place.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        _write_in_one_step(place)
    return Organism(model=WEIGHTS, data=DataFiles(folder=place))


def _write_in_one_step(place: Path) -> None:
    # Late, since the data sets are written once and read many times.
    from cmrm.organism.files import write_data

    with tempfile.TemporaryDirectory(
        prefix=".organism-", dir=place.parent, ignore_cleanup_errors=True
    ) as temporary:
        unfinished = Path(temporary) / place.name
        write_data(unfinished, seed=DATA_SEED)
        try:
            unfinished.rename(place)
        except OSError:
            # Another process was quicker; the same seed has given it the same data.
            if not place.is_dir():
                raise
