"""SPA-VL's test set: 265 harmful questions about images, and 265 by which helpfulness is judged.

Get `test/harm-*.parquet` and `test/help-*.parquet` from Hugging Face `sqrti/SPA-VL`; licence CC BY 4.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from cmrm.datasets.fields import content_id, get_text, get_text_or_none, join_names
from cmrm.datasets.format import Format, OpenRows
from cmrm.datasets.parquet_rows import find_shards, get_held_image, read_export
from cmrm.datasets.rows import Record, make_samples
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample

COLUMNS = frozenset(("image", "question"))
HARMFUL: Mapping[str, bool] = MappingProxyType({"harm": True, "help": False})
_NAMED = re.compile(r"(?:^|[^a-z])(?:eval)?(harm|help)(?:[^a-z]|$)")


def read_spa_vl(
    path: Path, *, dataset: str, open_rows: OpenRows, images: Path | None, split: str = "harm"
) -> Iterator[Sample | Rejected]:
    """Read the Parquet export, a file or a folder: `image`, `question`, and by now `class1`, `class2`, `class3`.

    `split` (harm or help) says which questions these are; where files, or the folders that they lie in, are named for
    one of the two, the others are left out. The questions of harm are harmful, those of help harmless. An image is kept
    in the folder `images`. id = split, and a digest of image and question; the category is the three classes; the
    question decides the side of the split. Raises `UserError` for another split, and where all files are of the other.
    """
    if split not in HARMFUL:
        raise UserError(f"data set {dataset!r}: split is {split!r}; choose {' or '.join(HARMFUL)}.")

    def make(record: Record) -> Sample:
        fields = record.fields
        question = get_text(fields, "question")
        image = get_held_image(fields, "image", images=images, dataset=dataset)
        return Sample(
            id=f"{split}-{content_id(question, image)}",
            dataset=dataset,
            question=question,
            harmful=HARMFUL[split],
            image=image,
            category=join_names(*(get_text_or_none(fields, f"class{number}") for number in (1, 2, 3))),
            line=record.line,
        )

    records = read_export(_choose_shards(path, split), open_rows, columns=COLUMNS)
    return make_samples(records, make, dataset=dataset)


def _choose_shards(path: Path, split: str) -> list[Path]:
    shards = find_shards(path)
    # Names below the folder take precedence over the folder's own name, and a file's over its parent's.
    named = {shard: _find_split(shard.relative_to(path)) for shard in shards if shard != path}
    if not any(named.values()):
        near = Path(path.name) if path.is_dir() else Path(path.parent.name, path.name)
        named = dict.fromkeys(shards, _find_split(near))
    if not any(named.values()):
        return shards
    # The folder may also hold training and validation files, which name neither split.
    chosen = [shard for shard, name in named.items() if name == split]
    if not chosen:
        other = "help" if split == "harm" else "harm"
        raise UserError(
            f"{path} holds questions of the split {other}, not of {split}; write `split: {other}` or give another file."
        )
    return chosen


def _find_split(path: Path) -> str | None:
    """Find the split that a path names, the last of its parts first: harm-00000-of-00001, evalharm/test, harm/0000."""
    for part in reversed(path.parts):
        if (found := _NAMED.search(part.lower())) is not None:
            return found[1]
    return None


FORMAT = Format(
    read=read_spa_vl,
    harmful=None,
    options=frozenset(("split",)),
    needs=frozenset(("images", "open_rows")),
    title="SPA-VL",
    address="https://huggingface.co/datasets/sqrti/SPA-VL",
)
